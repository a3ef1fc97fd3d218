"""Runs a Core AI model in NumPy, on any platform: only Apple's compiler makes models that its runtime loads.

The program is read back from the saved asset, and every operation follows its specification (the documentation of
the `coreai` dialect in coreai-core). Results are computed in f32 and rounded to the type the program gives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from coreai.authoring import AIProgram

from edgekit.errors import ConvertError

Array = npt.NDArray[Any]
Op = Callable[..., Any]
KINDS = {"f16": np.float16, "f32": np.float32, "si32": np.int32, "ui32": np.uint32, "si16": np.int16, "i1": np.bool_}
RESOURCE = re.compile(r'^\s*([\w.$-]+): "0x([0-9A-F]*)"', re.M)
TYPE = re.compile(r"tensor<((?:\d+x)*)(\w+)")


class Program:
    """A saved model, opened."""

    def __init__(self, path: Path) -> None:
        """Reads a model.

        Raises:
            ConvertError: not a Core AI model, or damaged.
        """
        try:
            self.program = AIProgram._load_bytecode(path / "main.mlirb")
            module = self.program._module._mlir_module
            self.graphs: dict[str, Any] = {str(g.attributes["sym_name"]).strip('"'): g for g in module.body.operations}
            self.resources = {n: bytes.fromhex(h)[4:] for n, h in RESOURCE.findall(str(module))}
        except Exception as error:  # whatever MLIR throws on damaged bytes
            raise ConvertError(f"{path}: is damaged or no Core AI model; export it again ({error})") from error
        self._constants: dict[Any, Any] = {}

    def run(self, name: str, *inputs: Array) -> list[Array]:
        """Calls a graph with its inputs in order; returns its outputs in order.

        Raises:
            ConvertError: it has an operation that is not known here.
        """
        block = self.graphs[name].regions[0].blocks[0]
        values: dict[Any, Any] = dict(zip(block.arguments, inputs, strict=True))
        for op in block.operations:
            kind = op.operation.name.removeprefix("coreai.").removeprefix("decomposable.broadcasting_")
            if kind == "output":
                return [values[v] for v in op.operands]
            result = op.results[0]
            if kind == "constant":
                if result not in self._constants:
                    self._constants[result] = self._constant(op)
                values[result] = self._constants[result]
                continue
            given = [values[v] for v in op.operands]
            fixed = all(v in self._constants for v in op.operands)
            if fixed and result in self._constants:
                values[result] = self._constants[result]
                continue
            if kind == "gelu" and "tanh" in str(op.attributes["approximate"]):
                kind = "gelu_tanh"
            if kind not in OPS:
                raise ConvertError(f"the Core AI interpreter does not know the operation '{kind}'")
            with np.errstate(over="ignore"):
                values[result] = np.asarray(OPS[kind](*given)).astype(_kind(result))
            if fixed:  # weights are decoded once
                self._constants[result] = values[result]
        raise ConvertError(f"graph '{name}' has no output")

    def _constant(self, op: Any) -> Any:
        result, text = op.results[0], str(op.attributes["value"])
        dims, kind = TYPE.search(str(result.type)).groups()  # type: ignore[union-attr]
        shape = [int(n) for n in dims.split("x") if n]
        if text.startswith("dense_resource<"):
            raw = np.frombuffer(self.resources[text[15 : text.index(">")]], np.uint8)
            return _elements(raw, kind).reshape(-1)[: math.prod(shape)].reshape(shape)
        attribute = op.attributes["value"]
        if attribute.is_splat:
            return np.full(shape, attribute.get_splat_value().value, _numpy(kind))
        return np.array(attribute).view(_numpy(kind)).reshape(shape)


def _numpy(kind: str) -> Any:
    return KINDS.get(kind, np.uint8)


def _kind(value: Any) -> Any:
    found = TYPE.search(str(value.type))
    assert found is not None
    return _numpy(found[2])


def _elements(raw: npt.NDArray[np.uint8], kind: str) -> Array:
    """Stored bytes as numbers; codes of fewer than 8 bits are a little-endian stream of bits, or a byte each."""
    if kind in KINDS:
        return raw.view(KINDS[kind])
    bits = int(kind.removeprefix("ui"))
    if bits == 8:
        return raw
    stream = np.unpackbits(raw, bitorder="little")
    stream = stream[: len(stream) // bits * bits].reshape(-1, bits)
    return np.packbits(stream, axis=-1, bitorder="little")[:, 0]


def _wide(x: Any) -> Array:
    a = np.asarray(x)
    return a.astype(np.float32) if a.dtype == np.float16 else a


def _on(function: Callable[..., Any]) -> Op:
    return lambda *given: function(*(_wide(x) for x in given))


def _axes(axes: Array) -> tuple[int, ...]:
    return tuple(int(a) for a in np.asarray(axes).reshape(-1))


def _spread(x: Array, shape: tuple[int, ...]) -> Array:
    """Blocks [..] repeated to `shape`."""
    at = np.ix_(*(np.arange(n) // (n // g) for n, g in zip(shape, x.shape, strict=True)))
    out: Array = x[at]
    return out


def _lut(indices: Array, lut: Array, axis: Array) -> Any:
    blocks = np.ix_(*(np.arange(n) // (n // g) for n, g in zip(indices.shape, lut.shape[:-2], strict=True)))
    return np.take_along_axis(lut[..., 0][blocks], indices[..., None].astype(np.int64), axis=-1)[..., 0]


def _blockwise(data: Array, scale: Array, first: Array, second: Array) -> Any:
    parts = (_spread(_wide(x).astype(np.float32), data.shape) for x in (scale, first, second))
    s, one, two = parts
    return s * (data.astype(np.float32) - one) + two


def _slices(begin: Array, end: Array, step: Array) -> tuple[slice, ...]:
    return tuple(slice(int(b), int(e), int(s)) for b, e, s in zip(begin, end, step, strict=True))


def _update(x: Array, begin: Array, end: Array, step: Array, new: Array) -> Any:
    out = np.array(x)
    out[_slices(begin, end, step)] = new
    return out


def _softmax(x: Array, axis: Array) -> Any:
    e = np.exp(x - x.max(axis=int(axis), keepdims=True))
    out: Array = e / e.sum(axis=int(axis), keepdims=True)
    return out


def _gather_nd(x: Array, at: Array) -> Any:
    out: Array = x[tuple(np.moveaxis(at, -1, 0))]
    return out


def _scatter(x: Array, at: Array, new: Array, axis: Array) -> Any:
    out = np.array(x)
    np.put_along_axis(out, at.astype(np.int64), new, axis=int(axis))
    return out


def _gelu(x: Array) -> Any:
    out: Array = 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float32])(x / math.sqrt(2)))
    return out


OPS: dict[str, Op] = {
    "lut_to_dense": _lut,
    "blockwise_shift_scale": _blockwise,
    "add": _on(np.add),
    "sub": _on(np.subtract),
    "mul": _on(np.multiply),
    "divide": _on(np.divide),
    "maximum": _on(np.maximum),
    "minimum": _on(np.minimum),
    "greater": _on(np.greater),
    "where": lambda c, a, b: np.where(c, a, b),
    "batch_matmul": _on(np.matmul),
    "abs": _on(np.abs),
    "tanh": _on(np.tanh),
    "relu": _on(lambda x: np.maximum(x, 0)),
    "sigmoid": _on(lambda x: 1 / (1 + np.exp(-x))),
    "silu": _on(lambda x: x / (1 + np.exp(-x))),
    "gelu": _on(_gelu),
    "gelu_tanh": _on(lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    "rsqrt": _on(lambda x: 1 / np.sqrt(x)),
    "softmax": _on(_softmax),
    "reduce_max": _on(lambda x, axes: x.max(axis=_axes(axes), keepdims=True)),
    "reduce_mean": _on(lambda x, axes: x.mean(axis=_axes(axes), keepdims=True)),
    "reduce_sum": _on(lambda x, axes: x.sum(axis=_axes(axes), keepdims=True)),
    "reshape": lambda x, shape: np.reshape(x, [int(n) for n in shape]),
    "expand_dims": lambda x, axes: np.expand_dims(x, _axes(axes)),
    "transpose": lambda x, order: np.transpose(x, _axes(order)),
    "concat": lambda axis, *pieces: np.concatenate(pieces, axis=int(axis)),
    "slice": lambda x, begin, end, step: x[_slices(begin, end, step)],
    "slice_update": _update,
    "gather_nd": _gather_nd,
    "gather_along_axis": lambda x, at, axis: np.take_along_axis(x, at.astype(np.int64), axis=int(axis)),
    "scatter_along_axis": _scatter,
    "argsort": lambda x, axis, descending, stable: np.argsort(
        -_wide(x) if descending else _wide(x), axis=int(axis), kind="stable"
    ),
}
