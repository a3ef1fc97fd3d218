"""What an interrupted training goes on from: one file of tensors, whole whenever it is there."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgekit.bundle.disk import sync
from edgekit.errors import ConvertError

STATE = "state.safetensors"  # its metadata tell of which job, so that one rename makes it whole


class State:
    """The state of one job in a folder of its own."""

    def __init__(self, folder: Path, key: str) -> None:
        """`key`: changes when the job is another one."""
        self.folder, self.key = folder, key

    @property
    def file(self) -> Path:
        """Where the state is."""
        return self.folder / STATE

    def damaged(self) -> ConvertError:
        """The error of a state that cannot be used."""
        return ConvertError(f"{self.file}: the saved training is damaged; remove {self.folder} to begin again")

    def load(self) -> dict[str, Tensor] | None:
        """What an interrupted call left, if it was the same job.

        Raises:
            ConvertError: it is damaged.
        """
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if path != self.file:  # torn by a kill while it was written
                path.unlink()
        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as opened:
                if (opened.metadata() or {}).get("key") != self.key:
                    return None
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise self.damaged() from error

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Puts a new state in the old one's place."""
        new = self.folder / "new.safetensors"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, new, {"key": self.key})
        sync(new)
        new.replace(self.file)
        sync(self.folder)


def optimizer_state(optimizer: torch.optim.Optimizer, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and Adam's moments, by name; those that had no gradient yet have no moments."""
    out: dict[str, Tensor] = {}
    for name, p in named.items():
        out[f"p.{name}"] = p.detach()
        held = optimizer.state.get(p)
        if held:
            out |= {f"m.{name}": held["exp_avg"], f"v.{name}": held["exp_avg_sq"]}
    return out


def restore_optimizer(
    optimizer: torch.optim.Optimizer, named: dict[str, Tensor], state: dict[str, Tensor], step: int
) -> None:
    """Takes over what `optimizer_state` gave.

    Raises:
        KeyError: a parameter is missing.
        RuntimeError: it has another shape.
    """
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(state[f"p.{name}"])
            if f"m.{name}" in state:
                optimizer.state[p] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": state[f"m.{name}"].to(p.device),
                    "exp_avg_sq": state[f"v.{name}"].to(p.device),
                }
