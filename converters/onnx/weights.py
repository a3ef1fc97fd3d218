"""Weights in an ONNX graph: as MatMulNBits, as plain numbers, or decoded by operators of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from edgekit.codecs.forms import AffineForm, DenseForm, LookupForm
from edgekit.codecs.plain import bf16_bits
from edgekit.converters.base import Choices
from edgekit.converters.lower import Emitter
from edgekit.converters.onnx.data import Array, DataFile, blocks_of
from edgekit.converters.weights import Json, Part, Weight, Weights, stored_bits

MS = "com.microsoft"
Value = ir.Value
_BLOCK = 32
_FLOAT = {"f32": np.float32, "f16": np.float16}


class OnnxWeights(Emitter[Value]):
    """A graph under way (`nodes` and `initializers` are on `tape`), and the operations with weights."""

    def __init__(self, weights: Weights, data: DataFile, choices: Choices, *, exact: bool) -> None:
        """`exact`: keep every weight's value; else what MatMulNBits cannot hold is re-quantized."""
        self.w, self.data, self.choices, self.exact = weights, data, choices, exact
        told = choices.accuracy_level
        self.accuracy_level = told if told is not None else 0 if exact else 4
        self.tape = Tape()
        self.made: dict[str, Value] = {}

    # --- plumbing ----------------------------------------------------------------------------

    def op(self, kind: str, *inputs: Value | None, domain: str = "", **attributes: Any) -> Value:
        """One node with one output."""
        return self.tape.op(kind, list(inputs), attributes, domain=domain)

    def ops(self, kind: str, inputs: Sequence[Value | None], count: int, domain: str, **attributes: Any) -> list[Value]:
        """One node with several outputs."""
        return list(self.tape.op_multi_out(kind, list(inputs), attributes, num_outputs=count, domain=domain))

    def const(self, name: str, values: Array, dtype: ir.DataType | None = None) -> Value:
        """An initializer, made once for each name."""
        if name not in self.made:
            self.made[name] = self.tape.initializer(self.data.tensor(name, values, dtype), name=name)
        return self.made[name]

    def ints(self, *values: int) -> Value:
        """A vector of int64."""
        return self.const("ints_" + "_".join(map(str, values)).replace("-", "m"), np.array(values, np.int64))

    def number(self, value: float) -> Value:
        """A scalar f32."""
        return self.const(f"f32_{value!r}", np.array(value, np.float32))

    # --- weights -----------------------------------------------------------------------------

    def _bits(self, kind: Json) -> int:
        return self.choices.bits or stored_bits(kind["bits"])

    def lookup(self, weight: Part, ids: Value) -> Value:
        name = weight.label
        if self.w.form(weight) == "computed" and not self.exact:
            found: Weight = self.w.affine(weight, self._bits(self.w.kind(weight)), _BLOCK, keep=False)
        else:
            found = self.w.get(weight)
        if isinstance(found, DenseForm):
            return self._f32(self.op("Gather", self._plain(name, found.values, found.dtype), ids))
        if isinstance(found, LookupForm):
            codes = self._unpacked(self.op("Gather", self._packed(name, found), ids), found.bits, found.codes.shape[1])
            table = np.arange(len(found.codes), dtype=np.int32) // found.lut_rows << found.bits
            base = self.op("Gather", self.const(f"{name}.table", table), ids)
            values = self._looked_up(name, found, self.op("Add", codes, self.op("Unsqueeze", base, self.ints(-1))))
            if found.scale is None:
                return values
            steps = self.op("Gather", self._steps_of(name, found), ids)
            return self.op("Mul", values, self._spread(name, found, steps))
        return self._coded_rows(name, found, ids)

    def _coded_rows(self, name: str, found: AffineForm, ids: Value) -> Value:
        """Rows of affine codes: those of MatMulNBits, so that a tied head shares them."""
        cols = found.codes.shape[1]
        packed = self.op("Gather", self._blocks(name, found), ids)
        flat = self.op("Reshape", packed, self.ints(0, 0, -1), allowzero=0)
        codes = self.op("Cast", self._nibbles(flat, stored_bits(found.bits)), to=int(ir.DataType.FLOAT))
        shaped = self.op("Reshape", codes, self.ints(0, 0, -1, found.group_size))
        middle = self.number(float(1 << (found.bits - 1)))
        scales = self.op("Unsqueeze", self.op("Gather", self._scales(name, found), ids), self.ints(-1))
        if found.symmetric:
            shaped = self.op("Sub", shaped, middle)
        else:
            zeros = self.op("Unsqueeze", self.op("Gather", self._zeros(name, found), ids), self.ints(-1))
            shaped = self.op("Sub", shaped, zeros)
        rows = self.op("Reshape", self.op("Mul", shaped, scales), self.ints(0, 0, -1))
        return (
            rows
            if cols % found.group_size == 0
            else self.op("Slice", rows, self.ints(0), self.ints(cols), self.ints(2))
        )

    def linear(self, x: Value, weight: Part, bias: str | None = None) -> Value:
        kind, form, name = self.w.kind(weight), self.w.form(weight), weight.label
        held = form == "affine" and _held(kind)
        if form == "dense":
            y = self._dense_product(x, weight, transpose=True)
        elif self.exact and not held:
            y = self.op("MatMul", x, self.op("Transpose", self._decoded(name, self.w.get(weight)), perm=[1, 0]))
        else:
            y = self._quantized(x, name, self.w.affine(weight, self._bits(kind), _BLOCK, keep=held))
        return y if bias is None else self.op("Add", y, self._vector(bias))

    def mix(self, x: Value, weight: Part, bias: str | None = None) -> Value:
        kind, form, name = self.w.kind(weight), self.w.form(weight), weight.label
        if form == "dense":
            y = self._dense_product(x, weight, transpose=False)
        elif self.exact:
            y = self.op("MatMul", x, self._decoded(name, self.w.get(weight)))
        else:
            y = self._quantized(x, name, self.w.affine(weight, self._bits(kind), _BLOCK, keep=False, transposed=True))
        return y if bias is None else self.op("Add", y, self._vector(bias))

    def _vector(self, name: str) -> Value:
        return self.const(name, self.w.vector(name))

    def _plain(self, name: str, values: Array, dtype: str) -> Value:
        if dtype == "bf16":
            return self.const(name, bf16_bits(np.ascontiguousarray(values)), ir.DataType.BFLOAT16)
        return self.const(name, values.astype(_FLOAT[dtype]))

    def _f32(self, x: Value) -> Value:
        return self.op("Cast", x, to=int(ir.DataType.FLOAT))

    def _dense_product(self, x: Value, weight: Part, transpose: bool) -> Value:
        name = f"{weight.label}.t" if transpose else weight.label
        kind = self.w.kind(weight)["codec"]
        if name not in self.made:
            if transpose and weight.label in self.made:  # tied: the embedding lies there already
                name = weight.label
            else:
                values = self.w.get(weight).dense()
                self._plain(name, np.ascontiguousarray(values.T) if transpose else values, kind)
        stored = self.made[name]
        stored = stored if kind == "f32" else self._f32(stored)
        tied = transpose and name == weight.label
        return self.op("MatMul", x, self.op("Transpose", stored, perm=[1, 0]) if tied else stored)

    # --- affine ------------------------------------------------------------------------------

    def _blocks(self, name: str, w: AffineForm) -> Value:
        return self.const(f"{name}.codes", blocks_of(w.codes, stored_bits(w.bits), w.group_size))

    def _scales(self, name: str, w: AffineForm) -> Value:
        return self.const(f"{name}.scales", _steps(w))

    def _zeros(self, name: str, w: AffineForm) -> Value:
        return self.const(f"{name}.zeros", (-w.bias.astype(np.float32) / _steps(w)).astype(np.float32))

    def _quantized(self, x: Value, name: str, w: AffineForm) -> Value:
        rows, cols = w.codes.shape
        inputs = [x, self._blocks(name, w), self._scales(name, w)]
        return self.op(
            "MatMulNBits",
            *(inputs if w.symmetric else [*inputs, self._zeros(name, w)]),
            domain=MS,
            K=cols,
            N=rows,
            bits=w.bits,
            block_size=w.group_size,
            accuracy_level=self.accuracy_level,
        )

    def _decoded(self, name: str, w: Weight) -> Value:
        """A weight f32 [rows, cols], decoded in the graph."""
        if isinstance(w, LookupForm):
            return self._palette(name, w)
        if isinstance(w, DenseForm):
            return self._plain(name, w.values, w.dtype)
        rows, cols = w.codes.shape
        codes = np.pad(w.codes, ((0, 0), (0, -cols % w.group_size)))
        grouped = self._nibbles(self.const(f"{name}.rows", _pairs(codes, w.bits)), stored_bits(w.bits))
        grouped = self.op("Reshape", self._f32(grouped), self.ints(rows, -1, w.group_size))
        steps = self.const(f"{name}.steps", _steps(w)[..., None])
        middle = self.number(float(1 << (w.bits - 1)))
        zero = middle if w.symmetric else self.op("Unsqueeze", self._zeros(name, w), self.ints(-1))
        dense = self.op("Reshape", self.op("Mul", self.op("Sub", grouped, zero), steps), self.ints(rows, -1))
        return self.op("Slice", dense, self.ints(0), self.ints(cols), self.ints(1)) if cols % w.group_size else dense

    def _nibbles(self, packed: Value, bits: int) -> Value:
        """Bytes [..., n] to codes [..., n * 8 / bits], low nibble first; as they are with 8 bits."""
        if bits == 8:
            return packed
        low = self.op("BitwiseAnd", packed, self.const("u8_15", np.array(15, np.uint8)))
        high = self.op("BitShift", packed, self.const("u8_4", np.array(4, np.uint8)), direction="RIGHT")
        both = self.op("Concat", *(self.op("Unsqueeze", v, self.ints(-1)) for v in (low, high)), axis=-1)
        shape = self.op("Concat", self.op("Shape", packed, end=-1), self.ints(-1), axis=0)
        return self.op("Reshape", both, shape)

    # --- palettes ----------------------------------------------------------------------------

    def _packed(self, name: str, w: LookupForm) -> Value:
        """Indices, two in a byte up to 4 bits, else one."""
        return self.const(f"{name}.indices", _pairs(w.codes, w.bits))

    def _unpacked(self, packed: Value, bits: int, cols: int) -> Value:
        """Indices i32 [..., cols]."""
        codes = self.op("Cast", self._nibbles(packed, 4 if bits <= 4 else 8), to=int(ir.DataType.INT32))
        odd = bits <= 4 and cols % 2
        return self.op("Slice", codes, self.ints(0), self.ints(cols), self.ints(-1)) if odd else codes

    def _looked_up(self, name: str, w: LookupForm, codes: Value) -> Value:
        lut = self.const(f"{name}.lut", w.lut.reshape(-1).astype(np.float32))
        return self.op("Gather", lut, codes)

    def _palette(self, name: str, w: LookupForm) -> Value:
        """The weight, looked up in the graph: f32 [rows, cols]."""
        codes = self._unpacked(self._packed(name, w), w.bits, w.codes.shape[1])
        if len(w.lut) > 1:
            base = (np.arange(len(w.codes), dtype=np.int32) // w.lut_rows << w.bits)[:, None]
            codes = self.op("Add", codes, self.const(f"{name}.base", base))
        values = self._looked_up(name, w, codes)
        if w.scale is None:
            return values
        return self.op("Mul", values, self._spread(name, w, self._steps_of(name, w)))

    def _steps_of(self, name: str, w: LookupForm) -> Value:
        """Scales f32 [rows, groups]."""
        assert w.scale is not None
        return self.const(f"{name}.steps", w.scale)

    def _spread(self, name: str, w: LookupForm, scales: Value) -> Value:
        """Scales [..., groups], one for each column: [..., cols]."""
        group = np.arange(w.codes.shape[1], dtype=np.int64) // w.group_size
        return self.op("Gather", scales, self.const(f"{name}.group", group), axis=-1)


def _held(kind: Json) -> bool:
    """Whether MatMulNBits computes with these affine codes as they are."""
    return kind["bits"] in (4, 8) and (kind["symmetric"] or kind["bits"] == 4)


def _steps(w: AffineForm) -> npt.NDArray[np.float32]:
    """Scales f32; a group of equal values (scale 0) gets its bias as scale, so that zero points exist."""
    scale = w.scale.astype(np.float32)
    return scale if w.symmetric else np.where(scale == 0, np.where(w.bias == 0, 1, w.bias), scale).astype(np.float32)


def _pairs(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes [rows, cols], two in a byte up to 4 bits (an odd last one alone), low nibble first."""
    if bits > 4:
        return codes
    wide = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return wide[:, ::2] | (wide[:, 1::2] << np.uint8(4))
