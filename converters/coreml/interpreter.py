"""Runs a Core ML program (ML Program, MIL) in NumPy, on any platform: how packages are checked off a Mac.

Every operation is computed in f32 and rounded to the type its output has in the program, so f16 programs show
f16's rounding. Semantics: coremltools' MIL operation definitions. Operations that no package of ours has
are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import numpy.typing as npt
from coremltools.converters.mil.frontend.milproto.load import load as load_program
from coremltools.converters.mil.mil import types

from edgekit.errors import ConvertError

Array = npt.NDArray[Any]
Inputs = Mapping[str, Any]
Op = Callable[[Inputs], Any]


class Program:
    """A package, opened. States are shared by its functions and zero at first."""

    def __init__(self, package: Path) -> None:
        """Reads a package.

        Raises:
            ConvertError: not a package, or damaged.
        """
        folder = package / "Data" / "com.apple.CoreML"
        try:
            spec = ct.utils.load_spec(str(folder / "model.mlmodel"))
            loaded = load_program(spec, spec.specificationVersion, file_weights_dir=str(folder / "weights"))
        except Exception as error:  # whatever protobuf or the blob reader throw on damaged files
            raise ConvertError(f"{package}: is damaged or no Core ML program; export it again ({error})") from error
        self.functions = loaded.functions
        self.states: dict[str, Array] = {}
        self._constants: dict[str, dict[Any, Any]] = {name: {} for name in self.functions}
        self._shared: dict[bytes, Array] = {}

    def reset(self) -> None:
        """Zeroes the states."""
        self.states.clear()

    def inputs(self, function: str) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what a function takes, states excluded."""
        given = self.functions[function].inputs
        return {n: tuple(v.shape) for n, v in given.items() if not types.is_state(v.sym_type)}

    def run(self, function: str, **inputs: Array) -> dict[str, Array]:
        """Calls a function; returns its outputs by name.

        Raises:
            ConvertError: it has an operation that is not known here.
        """
        body = self.functions[function]
        values: dict[Any, Any] = self._constants[function]
        local: dict[Any, Any] = {}
        for name, var in body.inputs.items():
            if types.is_state(var.sym_type):
                wrapped = var.sym_type.wrapped_type()
                kind = types.nptype_from_builtin(wrapped.get_primitive())
                self.states.setdefault(name, np.zeros(wrapped.get_shape(), kind))
            else:
                local[var] = np.asarray(inputs[name])

        def value(var: Any) -> Any:
            if isinstance(var, (list, tuple)):
                return [value(v) for v in var]
            return local[var] if var in local else values[var]

        for op in body.operations:
            constant = op.op_type == "const" or op.op_type.startswith("constexpr_")
            if constant and op.outputs[0] in values:
                continue
            if op.op_type == "const":
                values[op.outputs[0]] = op.outputs[0].val
                continue
            if op.op_type in ("read_state", "coreml_update_state"):
                self._state(op, local, value)
                continue
            if op.op_type not in OPS:
                raise ConvertError(f"the MIL interpreter does not know the operation '{op.op_type}'")
            given = {name: value(var) for name, var in op.inputs.items() if var is not None}
            results = OPS[op.op_type](given)
            results = results if isinstance(results, (list, tuple)) else [results]
            for var, result in zip(op.outputs, results, strict=True):
                (values if constant else local)[var] = _rounded(result, var)
        return {var.name: value(var) for var in body.outputs}

    def _state(self, op: Any, local: dict[Any, Any], value: Callable[[Any], Any]) -> None:
        if op.op_type == "read_state":
            local[op.outputs[0]] = self.states[op.inputs["input"].name]
        else:
            new = value(op.inputs["value"])
            self.states[op.inputs["state"].name] = local[op.outputs[0]] = new


def _rounded(result: Any, var: Any) -> Any:
    if not types.is_tensor(var.sym_type) and not types.is_scalar(var.sym_type):
        return result
    kind = types.nptype_from_builtin(var.dtype)
    with np.errstate(over="ignore"):
        return np.asarray(result).astype(kind)


def _wide(x: Any) -> Array:
    """Floating point as f32, anything else as it is."""
    a = np.asarray(x)
    return a.astype(np.float32) if a.dtype == np.float16 else a


def _elementwise(function: Callable[..., Array], *names: str) -> Op:
    return lambda i: function(*(_wide(i[n]) for n in names))


def _lut(i: Inputs) -> Any:
    """lut [blocks of each axis..., entries, 1]; indices of the weight's shape."""
    indices, lut = np.asarray(i["indices"]).astype(np.int64), np.asarray(i["lut"])
    assert lut.shape[-1] == 1, "vector palettes are not written here"
    at = np.ix_(*(np.arange(n) // (n // g) for n, g in zip(indices.shape, lut.shape[:-2], strict=True)))
    out: Array = np.take_along_axis(lut[..., 0][at], indices[..., None], axis=-1)[..., 0]
    return out


def _blockwise(i: Inputs) -> Any:
    data, scale = _wide(i["data"]).astype(np.float32), _wide(i["scale"])
    at = np.ix_(*(np.arange(n) // (n // g) for n, g in zip(data.shape, scale.shape, strict=True)))
    offset = _wide(i["offset"]).astype(np.float32)[at] if i.get("offset") is not None else 0
    return scale[at] * (data - offset)


def _gelu(i: Inputs) -> Any:
    x = _wide(i["x"])
    if str(i.get("mode", "EXACT")) == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    erf = np.vectorize(math.erf, otypes=[np.float32])
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def _matmul(i: Inputs) -> Any:
    x, y = _wide(i["x"]), _wide(i["y"])
    x = np.swapaxes(x, -1, -2) if i.get("transpose_x") else x
    y = np.swapaxes(y, -1, -2) if i.get("transpose_y") else y
    out: Array = x @ y
    return out


def _linear(i: Inputs) -> Any:
    y: Array = _wide(i["x"]) @ _wide(i["weight"]).T
    return y + _wide(i["bias"]) if i.get("bias") is not None else y


def _softmax(i: Inputs) -> Any:
    x, axis = _wide(i["x"]), int(i["axis"])
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    out: Array = e / e.sum(axis=axis, keepdims=True)
    return out


def _layer_norm(i: Inputs) -> Any:
    x, axes = _wide(i["x"]), tuple(int(a) for a in i["axes"])
    y = x - x.mean(axis=axes, keepdims=True)
    y = y / np.sqrt((y * y).mean(axis=axes, keepdims=True) + float(i["epsilon"]))
    y = y * _wide(i["gamma"]) if i.get("gamma") is not None else y
    return y + _wide(i["beta"]) if i.get("beta") is not None else y


def _reduce(function: Any) -> Op:
    return lambda i: function(_wide(i["x"]), axis=tuple(int(a) for a in i["axes"]), keepdims=bool(i["keep_dims"]))


def _reshape(i: Inputs) -> Any:
    return np.asarray(i["x"]).reshape([int(n) for n in i["shape"]])


def _split(i: Inputs) -> list[Array]:
    ends = np.cumsum(np.asarray(i["split_sizes"]))[:-1]
    return list(np.split(np.asarray(i["x"]), ends, axis=int(i["axis"])))


def _slices(i: Inputs, rank: int) -> tuple[slice, ...]:
    begin, end = i["begin"], i["end"]

    def told(name: str, otherwise: Any) -> Any:
        return i[name] if i.get(name) is not None else [otherwise] * rank

    begin_mask, end_mask, stride = told("begin_mask", False), told("end_mask", False), told("stride", 1)
    return tuple(
        slice(None if begin_mask[d] else int(begin[d]), None if end_mask[d] else int(end[d]), int(stride[d]))
        for d in range(rank)
    )


def _slice_update(i: Inputs) -> Any:
    out = np.array(i["x"])
    out[_slices(i, out.ndim)] = i["update"]
    return out


def _topk(i: Inputs) -> tuple[Array, Array]:
    x, axis, k = _wide(i["x"]), int(i["axis"]), int(i["k"])
    order = np.argsort(x if i.get("ascending") else -x, axis=axis, kind="stable")
    which = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, which, axis=axis), which


def _scatter_along_axis(i: Inputs) -> Any:
    out = np.array(i["data"])
    np.put_along_axis(out, np.asarray(i["indices"]).astype(np.int64), i["updates"], axis=int(i["axis"]))
    return out


def _conv(i: Inputs) -> Any:
    """2-d convolution: x [n, channels, h, w], weight [outputs, channels / groups, h, w]."""
    x, w, groups = _wide(i["x"]), _wide(i["weight"]), int(i.get("groups", 1))
    rows, cols = (int(s) for s in i["strides"])
    down, right = (int(s) for s in i["dilations"])
    pad = [int(p) for p in i["pad"]] if str(i["pad_type"]) == "custom" else [0] * 4
    x = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[1]), (pad[2], pad[3])))
    reach = ((w.shape[2] - 1) * down + 1, (w.shape[3] - 1) * right + 1)
    seen = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))  # type: ignore[call-overload]
    seen = seen[:, :, ::rows, ::cols, ::down, ::right]
    per, out = w.shape[1], []
    for g in range(groups):
        step = len(w) // groups
        part = w[g * step : (g + 1) * step]
        out.append(np.einsum("nchwij,ocij->nohw", seen[:, g * per : (g + 1) * per], part, optimize=True))
    y = np.concatenate(out, axis=1)
    return y + _wide(i["bias"])[:, None, None] if i.get("bias") is not None else y


def _batch_norm(i: Inputs) -> Any:
    def over(name: str) -> Any:
        return _wide(i[name])[:, None, None]

    return (_wide(i["x"]) - over("mean")) / np.sqrt(over("variance") + float(i["epsilon"])) * over("gamma") + over(
        "beta"
    )


def _pad(i: Inputs) -> Any:
    x, pad = np.asarray(i["x"]), [int(p) for p in i["pad"]]
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))
    return np.pad(x, pairs, constant_values=float(i.get("constant_val", 0)))


OPS: dict[str, Op] = {
    "constexpr_lut_to_dense": _lut,
    "constexpr_blockwise_shift_scale": _blockwise,
    "identity": lambda i: i["x"],
    "cast": lambda i: i["x"],
    "gather": lambda i: np.take(np.asarray(i["x"]), np.asarray(i["indices"]), axis=int(i["axis"])),
    "linear": _linear,
    "matmul": _matmul,
    "add": _elementwise(np.add, "x", "y"),
    "sub": _elementwise(np.subtract, "x", "y"),
    "mul": _elementwise(np.multiply, "x", "y"),
    "real_div": _elementwise(np.divide, "x", "y"),
    "maximum": _elementwise(np.maximum, "x", "y"),
    "minimum": _elementwise(np.minimum, "x", "y"),
    "abs": _elementwise(np.abs, "x"),
    "tanh": _elementwise(np.tanh, "x"),
    "relu": lambda i: np.maximum(_wide(i["x"]), 0),
    "sigmoid": lambda i: 1 / (1 + np.exp(-_wide(i["x"]))),
    "silu": lambda i: _wide(i["x"]) / (1 + np.exp(-_wide(i["x"]))),
    "gelu": _gelu,
    "rsqrt": lambda i: 1 / np.sqrt(_wide(i["x"]) + float(i["epsilon"])),
    "greater": _elementwise(np.greater, "x", "y"),
    "less_equal": _elementwise(np.less_equal, "x", "y"),
    "logical_and": _elementwise(np.logical_and, "x", "y"),
    "select": lambda i: np.where(i["cond"], i["a"], i["b"]),
    "reshape": _reshape,
    "transpose": lambda i: np.transpose(i["x"], [int(p) for p in i["perm"]]),
    "expand_dims": lambda i: np.expand_dims(i["x"], tuple(int(a) for a in i["axes"])),
    "squeeze": lambda i: np.squeeze(i["x"], tuple(int(a) for a in i["axes"])),
    "concat": lambda i: np.concatenate([np.asarray(v) for v in i["values"]], axis=int(i["axis"])),
    "split": _split,
    "slice_by_index": lambda i: np.asarray(i["x"])[_slices(i, np.ndim(i["x"]))],
    "slice_update": _slice_update,
    "softmax": _softmax,
    "layer_norm": _layer_norm,
    "reduce_sum": _reduce(np.sum),
    "reduce_mean": _reduce(np.mean),
    "reduce_max": _reduce(np.max),
    "topk": _topk,
    "scatter_along_axis": _scatter_along_axis,
    "conv": _conv,
    "batch_norm": _batch_norm,
    "pad": _pad,
}
