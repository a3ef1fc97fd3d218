"""Linear attention layers of GGUF files (Qwen3-Next, Qwen3.5) under the names of transformers.

llama.cpp's converter puts queries, keys and values of all heads after each other, keeps -exp(A_log) instead of A_log,
and of Qwen3.5 it puts the value heads of one key head apart: the first of each key head, then the second of each. Here
they come back to the order of transformers. See `conversion/qwen.py` of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit.checkpoint.safetensors import Tensor
from edgekit.checkpoint.views import Index, gathered, logged
from edgekit.errors import CheckpointError

STEMS = ("attn_qkv", "attn_gate", "ssm_in", "ssm_ba", "ssm_beta", "ssm_alpha", "ssm_conv1d", "ssm_dt", "ssm_a",
         "ssm_norm", "ssm_out")  # fmt: skip
AT = "linear_attn."


@dataclass(frozen=True)
class _Sizes:
    keys: int
    values: int
    key_dim: int
    value_dim: int

    @property
    def group(self) -> int:
        return self.values // self.keys

    @property
    def channels(self) -> int:
        """Of all queries, or of all keys."""
        return self.keys * self.key_dim

    @property
    def width(self) -> int:
        """Of all values."""
        return self.values * self.value_dim

    def untiled(self, size: int) -> Index:
        """Where the rows of value heads are that are grouped by key head here, and tiled in the file."""
        order: Index = np.arange(self.values * size).reshape(self.group, self.keys, size).swapaxes(0, 1).ravel()
        return order


def linear_tensors(
    config: Mapping[str, Any], found: Mapping[str, Tensor], *, tiled: bool
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a layer by their names in it.

    Args:
        config: config.json.
        found: the layer's tensors of `STEMS`, by stem.
        tiled: value heads are tiled.

    Raises:
        CheckpointError: shapes and hyperparameters contradict each other.
    """
    s = _sizes(config, found)
    for stem, tensor in found.items():
        rows = {
            "attn_qkv": 2 * s.channels + s.width,
            "attn_gate": s.width,
            "ssm_conv1d": 2 * s.channels + s.width,
            "ssm_norm": s.value_dim,
        }.get(stem)
        rows = s.values if stem in ("ssm_beta", "ssm_alpha", "ssm_dt", "ssm_a") else rows
        if (rows is not None and tensor.shape[0] != rows) or (stem == "ssm_out" and tensor.shape[-1] != s.width):
            raise CheckpointError(f"{tensor.path}: tensor '{tensor.name}' does not fit the sizes of its metadata")
    names = {"ssm_norm": "norm.weight", "ssm_in": "in_proj_qkvz.weight", "ssm_ba": "in_proj_ba.weight"}
    for stem in names.keys() & found.keys():
        yield AT + names[stem], found[stem]
    heads = s.untiled(1) if tiled else None
    for stem, name in (("ssm_beta", "in_proj_b.weight"), ("ssm_alpha", "in_proj_a.weight"), ("ssm_dt", "dt_bias")):
        if stem in found:
            yield AT + name, _ordered(found[stem], heads)
    if "ssm_a" in found:
        yield AT + "A_log", logged(_ordered(found["ssm_a"], heads))
    yield from _projections(s, found, tiled=tiled)


def _projections(s: _Sizes, found: Mapping[str, Tensor], *, tiled: bool) -> Iterator[tuple[str, Tensor]]:
    rows = s.untiled(s.value_dim)
    behind = np.concatenate([np.arange(2 * s.channels), 2 * s.channels + rows])  # queries and keys stay
    if "ssm_conv1d" in found:
        kernel = _ordered(found["ssm_conv1d"], behind if tiled else None)
        yield AT + "conv1d.weight", gathered(kernel.name, (kernel,), None, axis=True)
    if "ssm_out" in found:
        out = found["ssm_out"]
        yield AT + "out_proj.weight", gathered(out.name, (out,), None, columns=rows, run=s.value_dim) if tiled else out
    if "attn_qkv" not in found or "attn_gate" not in found:
        return
    qkv, gate = found["attn_qkv"], found["attn_gate"]
    if tiled:
        yield AT + "in_proj_qkv.weight", _ordered(qkv, behind)
        yield AT + "in_proj_z.weight", _ordered(gate, rows)
        return
    # Qwen3-Next: each key head has its query, key, values and gates side by side.
    pieces, at = [], 0
    for size in (s.key_dim, s.key_dim, s.group * s.value_dim, s.group * s.value_dim):
        pieces.append(at + np.arange(s.keys * size).reshape(s.keys, size))
        at += s.keys * size
    yield AT + "in_proj_qkvz.weight", gathered(qkv.name, (qkv, gate), np.concatenate(pieces, axis=1).ravel())


def _ordered(tensor: Tensor, order: Index | None) -> Tensor:
    return tensor if order is None else gathered(tensor.name, (tensor,), order)


def _sizes(config: Mapping[str, Any], found: Mapping[str, Tensor]) -> _Sizes:
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
    values: list[Any] = [config.get(f"linear_{name}") for name in names]
    tensor = next(iter(found.values()))
    most = max(max(t.shape) for t in found.values())  # nothing is made that is larger than the file's tensors
    if any(type(v) is not int or not 1 <= v <= most for v in values) or values[1] % values[0]:
        raise CheckpointError(f"{tensor.path}: the sizes of linear attention in the metadata (ssm.*) do not fit")
    sizes = _Sizes(*values)
    if max(sizes.channels, sizes.width) > most:
        raise CheckpointError(f"{tensor.path}: the sizes of linear attention in the metadata (ssm.*) do not fit")
    return sizes


def stacked_gate_up(tensor: Tensor, expert: int) -> tuple[Tensor, Tensor]:
    """Gate and up of an expert, of a tensor [experts, 2 * size, hidden] that has one behind the other.

    Raises:
        CheckpointError: it does not divide.
    """
    item = tensor.item(expert)
    if item.shape[0] % 2:
        raise CheckpointError(f"{tensor.path}: tensor '{tensor.name}' does not divide into gate and up")
    half = item.shape[0] // 2
    gate, up = (gathered(tensor.name, (item,), np.arange(half) + at) for at in (0, half))
    return replace(gate, name=tensor.name), replace(up, name=tensor.name)
