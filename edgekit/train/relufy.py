"""relufy: make a model's feed-forward activations zero most of the time, at little cost in quality.

The activation is replaced (surgery.py) and the model fine-tuned for a short while to give the
distributions of the original (distillation). Everything needed to go on is written now and then, as
safetensors and JSON; the same command resumes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekit.bundle.disk import sync, write_file
from edgekit.bundle.workspace import Workspace, check_apart, check_replaceable, output_path, workspace
from edgekit.calibrate.activity import documents
from edgekit.checkpoint import open_checkpoint, tokenizer_files
from edgekit.errors import CheckpointError, ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.train.surgery import Activation, Surgery, activation_key, operate

STATE = "state.safetensors"  # its metadata tell of which job, so that one rename makes it whole
REPORT = "relufy.json"  # in every folder that relufy made, and what shows that relufy may replace it
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune.

    Attributes:
        steps: of the optimizer.
        batch: sequences in each.
        length: most tokens of a sequence.
        learning_rate: peak; warms up over a twentieth, then falls to zero like a cosine.
        sparsity: weight of the mean |activation|, which pushes more of them to zero (ProSparse).
        evaluate: held-out documents.
        save_every: steps between saves.
        seed: of the order of documents.
        device: "cpu", "cuda", "mps", or "auto".
    """

    steps: int = 400
    batch: int = 8
    length: int = 256
    learning_rate: float = 3e-4
    sparsity: float = 0.0
    evaluate: int = 100
    save_every: int = 100
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Quality:
    """Held-out perplexity, and the share of zeros in each feed-forward block."""

    perplexity: float
    sparsity: tuple[float, ...]


@dataclass(frozen=True)
class Relufied:
    """What `relufy` did: quality of the original, right after the surgery, and after tuning."""

    path: Path
    original: float
    before: Quality
    after: Quality
    steps: int
    resumed: int
    seconds: float


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _load(path: Path) -> nn.Module:
    """A transformers model from a local folder, in f32; never remote code."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    open_checkpoint(path)  # refuses pickles and damaged files with our own words
    model: nn.Module = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return model


def _sequences(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> list[Tensor]:
    ids = (tokenizer.encode(t)[:length] for t in texts)
    return [torch.tensor(i) for i in ids if len(i) > 8]


def _batches(data: list[Tensor], tuning: Tuning, start: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, mask) [batch, length] of step `start` and all after it; the same for the same seed."""
    for step in range(start, tuning.steps):
        rng = torch.Generator().manual_seed(tuning.seed * 1_000_003 + step)
        picked = [data[i] for i in torch.randint(len(data), (tuning.batch,), generator=rng).tolist()]
        longest = max(len(p) for p in picked)
        ids = torch.stack([F.pad(p, (0, longest - len(p))) for p in picked])
        mask = torch.stack([torch.arange(longest) < len(p) for p in picked])
        yield ids.to(device), mask.to(device)


@torch.no_grad()
def _quality(model: nn.Module, data: list[Tensor], acts: list[Activation], device: torch.device) -> Quality:
    model.eval()
    nats, tokens = 0.0, 0
    for a in acts:
        a.counting, a.zeros, a.seen = True, 0, 0
    for ids in data:
        logits = model(ids[None].to(device)).logits[0, :-1].float()
        nats += float(F.cross_entropy(logits, ids[1:].to(device), reduction="sum"))
        tokens += len(ids) - 1
    for a in acts:
        a.counting = False
    model.train()
    return Quality(round(math.exp(nats / tokens), 4), tuple(round(a.zeros / max(1, a.seen), 4) for a in acts))


def _rate(tuning: Tuning, step: int) -> float:
    warm = max(1, tuning.steps // 20)
    if step < warm:
        return tuning.learning_rate * (step + 1) / warm
    return tuning.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, tuning.steps - warm)))


class _Trainer:
    """Student, teacher and optimizer, and where they are kept."""

    def __init__(self, checkpoint: Path, surgery: Surgery, tuning: Tuning, folder: Path) -> None:
        self.device = _device(tuning.device)
        self.tuning, self.folder = tuning, folder
        self.teacher = _load(checkpoint).to(self.device).eval()
        for p in self.teacher.parameters():
            p.requires_grad_(False)
        self.student = copy.deepcopy(self.teacher).train()
        self.acts = operate(self.student, surgery)
        for p in self.student.parameters():
            p.requires_grad_(True)
        self.inside: list[Tensor] = []
        for act in self.acts:
            act.register_forward_hook(lambda module, args, out: self.inside.append(out.abs().mean()))
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=tuning.learning_rate, weight_decay=0.0)
        self.step = 0

    def resume(self, key: str) -> None:
        """Goes on from what an interrupted call left, if it was the same job.

        Raises:
            ConvertError: what it left is damaged.
        """
        self.folder.mkdir(exist_ok=True)
        file = self.folder / STATE
        for path in self.folder.iterdir():
            if path != file:  # torn by a kill while it was written
                path.unlink()
        if not file.exists():
            return
        try:
            with safe_open(file, "pt") as opened:
                if (opened.metadata() or {}).get("key") != key:
                    return
                self._restore({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        except (SafetensorError, KeyError, RuntimeError) as error:
            cure = f"remove {self.folder} to begin again"
            raise ConvertError(f"{file}: the saved training is damaged; {cure}") from error

    def _restore(self, state: dict[str, Tensor]) -> None:
        """Takes over what `save` wrote."""
        with torch.no_grad():
            for name, p in self.student.named_parameters():
                p.copy_(state[f"p.{name}"])
                self.optimizer.state[p] = {
                    "step": state["step"].clone().float(),
                    "exp_avg": state[f"m.{name}"].to(self.device),
                    "exp_avg_sq": state[f"v.{name}"].to(self.device),
                }
        self.step = int(state["step"])

    def save(self, key: str) -> None:
        """Writes everything needed to go on."""
        tensors = {"step": torch.tensor(self.step)}
        for name, p in self.student.named_parameters():
            held = self.optimizer.state[p]
            tensors |= {f"p.{name}": p.detach(), f"m.{name}": held["exp_avg"], f"v.{name}": held["exp_avg_sq"]}
        new = self.folder / "new.safetensors"
        save_file({k: v.cpu().contiguous() for k, v in tensors.items()}, new, {"key": key})
        sync(new)
        new.replace(self.folder / STATE)
        sync(self.folder)

    def train(self, data: list[Tensor], key: str, progress: Progress) -> None:
        """Runs the steps that are left."""
        for ids, mask in _batches(data, self.tuning, self.step, self.device):
            for group in self.optimizer.param_groups:
                group["lr"] = _rate(self.tuning, self.step)
            with torch.no_grad():
                wanted = F.log_softmax(self.teacher(ids).logits.float(), dim=-1)
            self.inside.clear()
            got = F.log_softmax(self.student(ids).logits.float(), dim=-1)
            apart = F.kl_div(got, wanted, reduction="none", log_target=True).sum(dim=-1)
            loss = (apart * mask).sum() / mask.sum() + self.tuning.sparsity * torch.stack(self.inside).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            progress(self.step, self.tuning.steps)
            if self.step % self.tuning.save_every == 0:
                self.save(key)


def relufy(
    checkpoint: str | Path,
    out: str | Path,
    text: Sequence[Path],
    surgery: Surgery,
    tuning: Tuning,
    *,
    held_out: Sequence[Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Relufied:
    """Makes a sparse model of a checkpoint.

    Args:
        checkpoint: a folder.
        out: the folder to write, a checkpoint again.
        text: files to tune on (`documents` reads them).
        surgery: what to replace.
        tuning: how to tune.
        held_out: files to evaluate on; without them the last tenth of the text is kept back.
        overwrite: replace `out`, if relufy made it.
        progress: called with (steps done, of all).

    Raises:
        ConvertError: nothing to replace, too little text, or `out` exists and may not be replaced.
    """
    source, target = Path(checkpoint), output_path(Path(out))
    _check_target(target, overwrite)
    if source.is_file():
        raise CheckpointError(f"{source}: is no folder; relufy trains a checkpoint of safetensors with a config.json")
    check_apart(source, target)
    with workspace(target, resumes=True) as space:
        _check_target(target, overwrite)  # another process may have made it since
        done = _relufy(source, Path(out), space, text, surgery, tuning, held_out, progress)
        space.place()
    return done


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuses to replace anything but what relufy made, and that only if asked for."""
    kind = f"what relufy made (it has no {REPORT})"
    check_replaceable(target, overwrite, kind, lambda path: (path / REPORT).is_file())


def _relufy(
    source: Path,
    out: Path,
    space: Workspace,
    text: Sequence[Path],
    surgery: Surgery,
    tuning: Tuning,
    held_out: Sequence[Path],
    progress: Progress | None,
) -> Relufied:
    """Tunes, and writes the checkpoint to the workspace."""
    begin = time.monotonic()
    texts = list(documents(text))
    kept = list(documents(held_out)) if held_out else texts[-max(1, len(texts) // 10) :]
    texts = texts if held_out else texts[: -len(kept)]
    tokenizer = Tokenizer(source)
    data = _sequences(tokenizer, texts, tuning.length)
    held = _sequences(tokenizer, kept[: tuning.evaluate], tuning.length)
    if not data or not held:
        raise ConvertError("the text has no documents of more than 8 tokens; give more text")
    trainer = _Trainer(source, surgery, tuning, space.folder / "training")
    original = _quality(trainer.teacher, held, [], trainer.device).perplexity
    trainer.teacher.eval()
    before = _quality(trainer.student, held, trainer.acts, trainer.device)
    stamp = [asdict(surgery), asdict(tuning), open_checkpoint(source).fingerprint, [str(p) for p in text]]
    key = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()
    trainer.resume(key)
    resumed = trainer.step
    trainer.train(data, key, progress or (lambda done, total: None))
    after = _quality(trainer.student, held, trainer.acts, trainer.device)
    _write(trainer.student, source, space.output, surgery)
    done = Relufied(out, original, before, after, trainer.step, resumed, time.monotonic() - begin)
    report = json.dumps({**asdict(done), "path": out.name, "surgery": asdict(surgery)}, indent=1)
    write_file(space.output / REPORT, report.encode())
    return done


def _write(model: nn.Module, source: Path, folder: Path, surgery: Surgery) -> None:
    """The model as a checkpoint, in the dtype and with the tokenizer of the source."""
    shutil.rmtree(folder, ignore_errors=True)
    opened = open_checkpoint(source)
    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
    stored = {dtypes.get(t.dtype, torch.float32) for t in opened.tensors.values()}
    dtype = stored.pop() if len(stored) == 1 else torch.float32
    model.to("cpu", dtype).save_pretrained(folder)  # type: ignore[operator]
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    config |= {activation_key(config): surgery.activation, **surgery.config()}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    for name in tokenizer_files(source):
        if name != "config.json":
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    mode = (folder / "config.json").stat().st_mode
    for path in (p for p in folder.rglob("*") if p.is_file()):  # safetensors makes files that only their owner may read
        path.chmod(mode)
