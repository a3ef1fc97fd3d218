"""LoRA adapters of PEFT, merged while a checkpoint is read: weight + scale * B A (arXiv 2106.09685)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.packed import FLOATS, floats
from edgekit.checkpoint.reader import Checkpoint, read_json
from edgekit.checkpoint.safetensors import Tensor, read_header
from edgekit.checkpoint.views import Pieces
from edgekit.errors import CheckpointError, UnsupportedModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Merged(Pieces):
    """A matrix of dtype F32 with what an adapter adds to it; `parts` are the matrix, A [rank, in] and B [out, rank].

    `transposed`: the checkpoint stores [in, out].
    """

    scale: float = 1.0
    transposed: bool = False

    @property
    def codec(self) -> None:
        """None: the sums are numbers of their own."""
        return None

    def read(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [begin, end), f32 [end - begin, cols]."""
        base, a, b = self.parts
        turned = self.transposed
        added = floats(a).T[begin:end] @ floats(b).T if turned else floats(b, begin, end) @ floats(a)
        return np.asarray(floats(base, begin, end) + np.float32(self.scale) * added, np.float32)


def with_adapter(opened: Checkpoint, folder: Path) -> Checkpoint:
    """A checkpoint with a PEFT adapter merged into its tensors.

    Args:
        opened: the checkpoint that the adapter was trained on.
        folder: of adapter_config.json and adapter_model.safetensors.

    Raises:
        CheckpointError: the adapter is damaged, or of another model.
        UnsupportedModelError: of another kind than LoRA, or a variant that edgekit does not merge.
    """
    changed, stamp = adapted(opened.tensors, folder)
    return replace(opened, tensors=dict(opened.tensors) | changed, fingerprint=opened.fingerprint + stamp)


def adapted(base: Mapping[str, Tensor], folder: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors that a PEFT adapter changes, by name, and what tells this adapter from any other.

    Args:
        base: the checkpoint's tensors; only names and shapes count before what is given back is read.
        folder: of adapter_config.json and adapter_model.safetensors.

    Raises:
        CheckpointError: the adapter is damaged, or of another model.
        UnsupportedModelError: of another kind than LoRA, or a variant that edgekit does not merge.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; --lora takes a folder that PEFT saved an adapter to")
    config = read_json(folder / CONFIG)
    _refuse(folder, config)
    found, raw = read_header(folder / WEIGHTS)
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if name.endswith(B) and name.removesuffix(B) + A in found:
            continue
        if tensor.dtype not in FLOATS or not name.startswith(PREFIX):
            raise UnsupportedModelError(f"{tensor.path}: tensor '{name}' is none that edgekit merges")
        if name.endswith(A):
            made = _merged(config, base, tensor, found.get(name.removesuffix(A) + B))
            tensors[made.name] = made
        elif ".lora_" in name:
            raise UnsupportedModelError(f"{tensor.path}: tensor '{name}' is of an adapter that edgekit does not merge")
        else:  # a module that was trained whole
            target = _target(base, tensor, name.removeprefix(PREFIX))
            if target.shape != tensor.shape:
                raise CheckpointError(f"{tensor.path}: '{name}' has another shape than the checkpoint's tensor")
            tensors[target.name] = replace(tensor, name=target.name)
    stamp = hashlib.sha256(json.dumps(config, sort_keys=True).encode() + raw)
    stamp.update((folder / WEIGHTS).stat().st_mtime_ns.to_bytes(8, "little"))
    return tensors, stamp.hexdigest()


def _refuse(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses adapters whose sum would be another."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"{folder / CONFIG}: peft_type is {str(config.get('peft_type'))[:50]!r}, not LORA")
    for key in ("use_dora", "alora_invocation_tokens", "layer_replication", "lora_bias", "target_parameters"):
        if config.get(key):
            raise UnsupportedModelError(
                f"{folder / CONFIG}: {key} is set, which edgekit does not merge; merge it with PEFT: merge_and_unload()"
            )
    if config.get("bias", "none") != "none":
        raise UnsupportedModelError(f"{folder / CONFIG}: adapters with biases are not merged; use merge_and_unload()")


def _target(tensors: Mapping[str, Tensor], adapter: Tensor, name: str) -> Tensor:
    found = tensors.get(name)
    if found is None:
        raise CheckpointError(f"{adapter.path}: is for tensor '{name[:200]}', which the checkpoint does not have")
    return found


def _merged(config: Mapping[str, Any], tensors: Mapping[str, Tensor], a: Tensor, b: Tensor | None) -> Merged:
    module = a.name.removeprefix(PREFIX).removesuffix(A)
    base = _target(tensors, a, module + ".weight")
    fits = b is not None and b.dtype in FLOATS and len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
    transposed = config.get("fan_in_fan_out") is True
    if b is None or not fits or base.shape != ((a.shape[1], b.shape[0]) if transposed else (b.shape[0], a.shape[1])):
        raise CheckpointError(f"{a.path}: the adapter of '{module}' does not have the shape of the checkpoint's tensor")
    parts = (base, a, b)
    scale = _scale(config, module, a.shape[0], a.path)
    return Merged(base.name, base.path, "F32", base.shape, base.offset, parts, scale, transposed)


def _scale(config: Mapping[str, Any], module: str, rank: int, path: Path) -> float:
    alpha = config.get("lora_alpha", 8)
    pattern = config.get("alpha_pattern")
    for key, value in pattern.items() if isinstance(pattern, Mapping) else ():
        if fnmatchcase(module, f"*{key}"):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or rank < 1:
        raise CheckpointError(f"{path}: lora_alpha is {str(alpha)[:50]}, or the rank is {rank}")
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
