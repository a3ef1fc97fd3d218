"""Checkpoints that other tools quantized (GPTQ, AWQ, compressed-tensors, bitsandbytes, MLX, BitNet): their packed
tensors become matrices under the usual names, and config.json loses what says that they are packed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgekit.checkpoint.floats8 import STATE, float8, nf4
from edgekit.checkpoint.packed import Awq, BitNet, CompressedTensors, Gptq, Mlx
from edgekit.checkpoint.safetensors import Tensor
from edgekit.errors import CheckpointError, UnsupportedModelError

Table = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
LARGEST = 1 << 24  # of any dimension
NF4_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", STATE)


def unquantized(config: Table, tensors: Tensors) -> tuple[Table, Tensors]:
    """Config and tensors of a checkpoint as if it had not been quantized; unchanged if no method here packed them.

    Raises:
        UnsupportedModelError: a variant of a method that edgekit does not read.
        CheckpointError: tensors that do not go together.
    """
    given = config.get("quantization_config")
    method = given.get("quant_method") if isinstance(given, Mapping) else None
    mlx = config.get("quantization")
    if isinstance(mlx, Mapping) and any(name.endswith(".scales") for name in tensors):
        made = _mlx(mlx, tensors)
    elif isinstance(given, Mapping) and isinstance(method, str) and _packs(method, tensors):
        made = _READERS[method](given, tensors)
    elif method == "bitnet":
        raise UnsupportedModelError(
            "config.json: the weights are rounded to -1, 0 and 1 while BitNet computes, and are not packed; convert "
            "the checkpoint that has them packed"
        )
    else:
        return config, tensors
    return {k: v for k, v in config.items() if k not in ("quantization_config", "quantization")}, made


def _number(table: Table, key: str, least: int, otherwise: int | None = None) -> int:
    value = table.get(key, otherwise)
    if type(value) is not int or not least <= value <= LARGEST:
        raise UnsupportedModelError(f"config.json: {key} of the quantization is {str(value)[:50]}, which is no size")
    return value


def _stems(tensors: Tensors, end: str) -> list[str]:
    return [name.removesuffix(end) for name in tensors if name.endswith(end)]


def _swap(tensors: Tensors, stem: str, parts: tuple[str, ...], made: Tensor) -> dict[str, Tensor]:
    """Tensors without the parts of a matrix, and with the matrix."""
    gone = {stem + part for part in parts}
    return {name: t for name, t in tensors.items() if name not in gone} | {made.name: made}


def _flat(tensor: Tensor) -> tuple[int, int]:
    if len(tensor.shape) != 2:
        raise CheckpointError(f"{tensor.path}: tensor '{tensor.name}' of packed codes is no matrix")
    return tensor.shape[0], tensor.shape[1]


def _mlx(config: Table, tensors: Tensors) -> dict[str, Tensor]:
    out = dict(tensors)
    for stem in _stems(tensors, ".scales"):
        own = config.get(stem)
        table = own if isinstance(own, Mapping) else config
        bits, size = _number(table, "bits", 1), _number(table, "group_size", 1)
        parts = {n: tensors[f"{stem}.{n}"] for n in ("weight", "scales", "biases") if f"{stem}.{n}" in tensors}
        if table.get("mode", "affine") != "affine" or len(parts) != 3 or bits not in (2, 3, 4, 5, 6, 8):
            raise UnsupportedModelError(f"config.json: '{stem}' is quantized by MLX in another way than affine")
        rows, words = _flat(parts["weight"])
        weight = parts["weight"]
        made = Mlx(weight.name, weight.path, "F32", (rows, words * 32 // bits), weight.offset, parts, bits, size)
        made.codes(0, 0), made.groups(0, 0)  # checks the shapes
        for name in ("scales", "biases"):
            del out[f"{stem}.{name}"]
        out[weight.name] = made
    return out


def _gptq(config: Table, tensors: Tensors) -> dict[str, Tensor]:
    out = dict(tensors)
    bits = _number(config, "bits", 1)
    if bits not in (2, 4, 8):
        raise UnsupportedModelError(f"config.json: GPTQ with {bits} bits is not read; 2, 4 and 8 are")
    version_2 = config.get("checkpoint_format") == "gptq_v2"
    for stem in _stems(tensors, ".qweight"):
        parts = {
            n: tensors[f"{stem}.{n}"] for n in ("qweight", "qzeros", "scales", "g_idx") if f"{stem}.{n}" in tensors
        }
        words, rows = _flat(parts["qweight"])
        cols = words * 32 // bits
        size = cols if config.get("group_size") == -1 else _number(config, "group_size", 1)
        columns = _columns(parts.get("g_idx"), cols, size)
        at = parts["qweight"]
        name = stem + ".weight"
        made = Gptq(name, at.path, "F32", (rows, cols), at.offset, parts, bits, size, columns, 0 if version_2 else 1)
        made.groups(0, 0)
        out = _swap(out, stem, (".qweight", ".qzeros", ".scales", ".g_idx"), made)
    return out


def _columns(index: Tensor | None, cols: int, size: int) -> Any:
    """The group of each column, or None where groups are runs of columns."""
    if index is None:
        return None
    if index.dtype != "I32" or index.shape != (cols,):
        raise CheckpointError(f"{index.path}: '{index.name}' is no list of the groups of {cols} columns")
    groups = index.read().astype(np.int64)
    if groups.min(initial=0) < 0 or groups.max(initial=0) >= -(-cols // size):
        raise CheckpointError(f"{index.path}: '{index.name}' names groups that do not exist")
    return None if np.array_equal(groups, np.arange(cols) // size) else groups


def _awq(config: Table, tensors: Tensors) -> dict[str, Tensor]:
    out = dict(tensors)
    if config.get("bits", config.get("w_bit")) != 4 or config.get("version", "gemm") not in ("gemm", "GEMM"):
        raise UnsupportedModelError("config.json: of AWQ, 4 bits in the version 'gemm' are read")
    for stem in _stems(tensors, ".qweight"):
        parts = {n: tensors[f"{stem}.{n}"] for n in ("qweight", "qzeros", "scales") if f"{stem}.{n}" in tensors}
        at = parts["qweight"]
        cols, words = _flat(at)
        size = cols if config.get("group_size") == -1 else _number(config, "group_size", 1, 128)
        made = Awq(stem + ".weight", at.path, "F32", (words * 8, cols), at.offset, parts, 4, size)
        made.groups(0, 0)
        out = _swap(out, stem, (".qweight", ".qzeros", ".scales"), made)
    return out


def _compressed(config: Table, tensors: Tensors) -> dict[str, Tensor]:
    out = dict(tensors)
    for stem in _stems(tensors, ".weight_scale"):
        parts = {
            n: tensors[f"{stem}.{n}"] for n in ("weight", "weight_packed", "weight_scale") if f"{stem}.{n}" in tensors
        }
        at = parts.get("weight_packed", parts.get("weight"))
        if at is None or f"{stem}.weight_zero_point" in tensors or f"{stem}.weight_g_idx" in tensors:
            raise UnsupportedModelError(
                f"{stem}: of compressed-tensors, symmetric weights in groups, rows or as a whole are read, without "
                "zero points and g_idx"
            )
        name = stem + ".weight"
        ends = (".weight", ".weight_packed", ".weight_scale", ".weight_shape", ".input_scale")
        if at.dtype == "F8_E4M3":
            out = _swap(out, stem, ends, float8(name, at, parts["weight_scale"]))
            continue
        bits = 8 if at.dtype == "I8" else _bits(config)
        rows, width = _flat(at)
        cols = width if at.dtype == "I8" else _columns_of(tensors.get(stem + ".weight_shape"), rows, width * 32 // bits)
        count = parts["weight_scale"].shape[-1] if len(parts["weight_scale"].shape) == 2 else 0
        if count < 1 or cols % count:
            raise CheckpointError(f"{at.path}: '{stem}.weight_scale' does not divide {cols} columns into groups")
        made = CompressedTensors(name, at.path, "F32", (rows, cols), at.offset, parts, bits, cols // count)
        made.codes(0, 0), made.groups(0, 0)
        out = _swap(out, stem, ends, made)
    return out


def _bits(config: Table) -> int:
    groups = config.get("config_groups")
    listed = (
        [g.get("weights") for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
    )
    found = {w.get("num_bits") for w in listed if isinstance(w, Mapping) and type(w.get("num_bits")) is int}
    if found not in ({4}, {8}):
        raise UnsupportedModelError("config.json: of compressed-tensors, weights of 4 or of 8 bits are read")
    return int(found.pop())


def _columns_of(shape: Tensor | None, rows: int, most: int) -> int:
    """Columns of a packed matrix: words may have some to spare."""
    if shape is None or shape.dtype not in ("I64", "I32") or shape.shape != (2,):
        return most
    stored = [int(n) for n in shape.read()]
    if stored[0] != rows or not 0 < stored[1] <= most:
        raise CheckpointError(f"{shape.path}: '{shape.name}' is {stored}, which the packed codes do not fit")
    return stored[1]


def _bitsandbytes(config: Table, tensors: Tensors) -> dict[str, Tensor]:
    out = dict(tensors)
    for stem in _stems(tensors, f".weight.{STATE}"):
        if stem + ".weight" not in tensors:
            raise CheckpointError(f"the checkpoint has no tensor '{stem}.weight', though it has the state of one")
        found = {n: f"{stem}.weight.{n}" for n in NF4_PARTS if f"{stem}.weight.{n}" in tensors}
        parts = {"weight": tensors[stem + ".weight"], **{n: tensors[name] for n, name in found.items()}}
        for name in found.values():
            del out[name]
        out[stem + ".weight"] = nf4(stem + ".weight", parts)
    return out


def _bitnet(config: Table, tensors: Tensors) -> dict[str, Tensor]:
    out = dict(tensors)
    kind = config.get("linear_class", "bitlinear")
    if kind not in ("bitlinear", "autobitlinear") or config.get("use_rms_norm"):
        raise UnsupportedModelError(
            "config.json: of BitNet's packed weights, those of the linear classes 'bitlinear' and 'autobitlinear' are "
            "read, without norms of their own"
        )
    for stem in _stems(tensors, ".weight_scale"):
        at = tensors.get(stem + ".weight")
        if at is None:
            raise CheckpointError(f"the checkpoint has no tensor '{stem}.weight', though it has the scale of one")
        parts = {"weight": at, "weight_scale": tensors[stem + ".weight_scale"]}
        rows, cols = _flat(at)
        made = BitNet(at.name, at.path, "F32", (4 * rows, cols), at.offset, parts, 2, cols, divides=kind == "bitlinear")
        made.codes(0, 0), made.groups(0, 0)
        out = _swap(out, stem, (".weight", ".weight_scale"), made)
    return out


def _packs(method: str, tensors: Tensors) -> bool:
    """Whether there are tensors as a method packs them."""
    return method in _ENDS and any(name.endswith(_ENDS[method]) for name in tensors)


_ENDS = {
    "gptq": ".qweight",
    "awq": ".qweight",
    "compressed-tensors": ".weight_scale",
    "bitsandbytes": STATE,
    "bitnet": ".weight_scale",
}
_READERS: dict[str, Callable[[Table, Tensors], dict[str, Tensor]]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "bitnet": _bitnet,
}
