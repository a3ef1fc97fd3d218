"""The blocks' operations in ONNX, with ONNX Runtime's own operators where they are the fast path.

Quantized weights are `com.microsoft::MatMulNBits`, attention is `com.microsoft::GroupQueryAttention`
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). A palette has no such
operator: in the `exact` form its indices are looked up in the graph, else it is re-quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

from edgekit.converters.base import Choices
from edgekit.converters.lower import Emitter, feed_forward
from edgekit.converters.onnx_data import Array, DataFile, blocks_of
from edgekit.converters.rope import tables
from edgekit.converters.weights import Coded, Indexed, Json, Part, Plain, Weight, Weights

MS = "com.microsoft"
EDGEKIT = "ai.edgekit"
Value = ir.Value
_BLOCK = 32
HEAD_STEP = 8  # GroupQueryAttention: heads, and pairs of rotated values, are multiples of it
_FLOAT = {"f32": np.float32, "f16": np.float16}


class OnnxEmitter(Emitter[Value]):
    """Builds a graph; `nodes` and `initializers` are on `tape`."""

    def __init__(
        self, weights: Weights, data: DataFile, choices: Choices, context: int, *, exact: bool, flash: bool
    ) -> None:
        """`exact`: keep every weight's value; else what MatMulNBits cannot hold is re-quantized.
        `flash`: feed-forward blocks are the custom operator of runtime/onnx."""
        self.w, self.data, self.choices, self.context = weights, data, choices, context
        self.exact, self.flash = exact, flash
        self.tape = Tape()
        self.made: dict[str, Value] = {}
        self.presents: list[Value] = []
        self.pasts: list[Value] = []
        self._ropes: dict[int, tuple[Value, Value]] = {}
        self._inputs()

    # --- plumbing ----------------------------------------------------------------------------

    def op(
        self,
        kind: str,
        *inputs: Value | None,
        domain: str = "",
        output: Value | None = None,
        **attributes: Any,
    ) -> Value:
        """One node with one output."""
        return self.tape.op(kind, list(inputs), attributes, domain=domain, output=output)

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

    def _inputs(self) -> None:
        def tensor(name: str, kind: ir.DataType, *shape: int | str) -> Value:
            return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))

        self.ids = tensor("input_ids", ir.DataType.INT64, "batch", "tokens")
        self.mask = tensor("attention_mask", ir.DataType.INT64, "batch", "total")
        for layer, b in enumerate(b for b in self.w.model["blocks"] if b["kind"] == "attention"):
            for which in ("key", "value"):
                shape = ("batch", b["kv_heads"], "past", head_width(b["head_dim"]))
                self.pasts.append(tensor(f"past_key_values.{layer}.{which}", ir.DataType.FLOAT, *shape))
        total = self.op("Shape", self.mask, start=1, end=2)
        self.total = self.op("Cast", self.op("Squeeze", total), to=int(ir.DataType.INT32))
        seen = self.op("ReduceSum", self.mask, self.ints(1), keepdims=0)
        self.seqlens = self.op("Cast", self.op("Sub", seen, self.ints(1)), to=int(ir.DataType.INT32))

    @property
    def inputs(self) -> list[Value]:
        """Of the graph."""
        return [self.ids, self.mask, *self.pasts]

    # --- weights -----------------------------------------------------------------------------

    def _bits(self, kind: Json) -> int:
        return self.choices.bits or (4 if kind["bits"] <= 4 else 8)

    def lookup(self, weight: Part, ids: Value) -> Value:
        found = self.w.get(weight)
        name = weight.label
        if isinstance(found, Plain):
            return self._f32(self.op("Gather", self._plain(name, found.values, found.dtype), ids))
        if isinstance(found, Indexed):
            codes = self._unpacked(self.op("Gather", self._packed(name, found), ids), found.bits, found.codes.shape[1])
            table = np.arange(len(found.codes), dtype=np.int32) // found.lut_rows << found.bits
            base = self.op("Gather", self.const(f"{name}.table", table), ids)
            return self._looked_up(name, found, self.op("Add", codes, self.op("Unsqueeze", base, self.ints(-1))))
        return self._coded_rows(name, found, ids)

    def _coded_rows(self, name: str, found: Coded, ids: Value) -> Value:
        """Rows of affine codes: those of MatMulNBits, so that a tied head shares them."""
        cols = found.codes.shape[1]
        packed = self.op("Gather", self._blocks(name, found), ids)
        flat = self.op("Reshape", packed, self.ints(0, 0, -1), allowzero=0)
        codes = self.op("Cast", self._nibbles(flat, found.bits), to=int(ir.DataType.FLOAT))
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
        kind, name = self.w.kind(weight), weight.label
        held = kind["codec"] == "affine" and (kind["symmetric"] or kind["bits"] == 4)  # what MatMulNBits computes
        if kind["codec"] in ("f32", "f16", "bf16"):
            y = self._dense_product(x, weight, transpose=True)
        elif self.exact and not held:
            y = self.op("MatMul", x, self.op("Transpose", self._decoded(name, self.w.get(weight)), perm=[1, 0]))
        else:
            y = self._quantized(x, name, self.w.affine(weight, self._bits(kind), _BLOCK, keep=held))
        return y if bias is None else self.op("Add", y, self._vector(bias))

    def mix(self, x: Value, weight: Part, bias: str | None = None) -> Value:
        kind, name = self.w.kind(weight), weight.label
        if kind["codec"] in ("f32", "f16", "bf16"):
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
            raw = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
            return self.const(name, raw, ir.DataType.BFLOAT16)
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

    def _blocks(self, name: str, w: Coded) -> Value:
        return self.const(f"{name}.codes", blocks_of(w.codes, w.bits, w.group_size))

    def _scales(self, name: str, w: Coded) -> Value:
        return self.const(f"{name}.scales", _steps(w))

    def _zeros(self, name: str, w: Coded) -> Value:
        return self.const(f"{name}.zeros", (-w.bias.astype(np.float32) / _steps(w)).astype(np.float32))

    def _quantized(self, x: Value, name: str, w: Coded) -> Value:
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
            accuracy_level=self.choices.accuracy_level,
        )

    def _decoded(self, name: str, w: Weight) -> Value:
        """A weight f32 [rows, cols], decoded in the graph."""
        if isinstance(w, Indexed):
            return self._palette(name, w)
        assert isinstance(w, Coded)
        rows, cols = w.codes.shape
        codes = np.pad(w.codes, ((0, 0), (0, -cols % w.group_size)))
        grouped = self._nibbles(self.const(f"{name}.rows", _pairs(codes, w.bits)), w.bits)
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

    def _packed(self, name: str, w: Indexed) -> Value:
        """Indices, two in a byte up to 4 bits, else one."""
        return self.const(f"{name}.indices", _pairs(w.codes, w.bits))

    def _unpacked(self, packed: Value, bits: int, cols: int) -> Value:
        """Indices i32 [..., cols]."""
        codes = self.op("Cast", self._nibbles(packed, 4 if bits <= 4 else 8), to=int(ir.DataType.INT32))
        odd = bits <= 4 and cols % 2
        return self.op("Slice", codes, self.ints(0), self.ints(cols), self.ints(-1)) if odd else codes

    def _looked_up(self, name: str, w: Indexed, codes: Value) -> Value:
        lut = self.const(f"{name}.lut", w.lut.reshape(-1).astype(np.float32))
        return self.op("Gather", lut, codes)

    def _palette(self, name: str, w: Indexed) -> Value:
        """The weight, looked up in the graph: f32 [rows, cols]."""
        codes = self._unpacked(self._packed(name, w), w.bits, w.codes.shape[1])
        if len(w.lut) > 1:
            base = (np.arange(len(w.codes), dtype=np.int32) // w.lut_rows << w.bits)[:, None]
            codes = self.op("Add", codes, self.const(f"{name}.base", base))
        return self._looked_up(name, w, codes)

    # --- arithmetic --------------------------------------------------------------------------

    def positions(self) -> Value:
        offset = self.w.model["embedding"].get("position_offset", 0)
        row = self._places()
        return self.op("Add", row, self.ints(offset)) if offset else row

    def _places(self) -> Value:
        """Place of each token in the text, [1, tokens]."""
        tokens = self.op("Squeeze", self.op("Shape", self.ids, start=1, end=2))
        total = self.op("Squeeze", self.op("Shape", self.mask, start=1, end=2))
        row = self.op("Range", self.op("Sub", total, tokens), total, self.const("one", np.array(1, np.int64)))
        return self.op("Unsqueeze", row, self.ints(0))

    def add(self, a: Value, b: Value) -> Value:
        return self.op("Add", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.op("Mul", a, b)

    def scale(self, x: Value, by: float) -> Value:
        return self.op("Mul", x, self.number(by))

    def cap(self, x: Value, at: float) -> Value:
        return self.scale(self.op("Tanh", self.scale(x, 1 / at)), at)

    def activate(self, kind: str, threshold: float, x: Value) -> Value:
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind in ("gelu", "gelu_tanh"):
            return self.op("Gelu", x, approximate="tanh" if kind == "gelu_tanh" else "none")
        if kind == "threshold":
            return self.op("Where", self.op("Greater", x, self.number(threshold)), x, self.number(0.0))
        y = self.op("Relu", self.op("Sub", x, self.number(threshold)) if kind == "shifted_relu" else x)
        return self.op("Mul", y, y) if kind == "relu2" else y

    def norm(self, norm: Json, x: Value, heads: int = 0) -> Value:
        weight = norm.get("weight")
        scale = self._vector(weight) if weight else self._ones(norm, x, heads)
        y = self.op("Reshape", x, self.ints(0, 0, heads, -1)) if heads else x
        if norm["kind"] == "rms":
            y = self.op("RMSNormalization", y, scale, axis=-1, epsilon=norm["eps"])
            y = self.op("Add", y, self._vector(norm["bias"])) if norm.get("bias") else y
        else:
            bias = [self._vector(norm["bias"])] if norm.get("bias") else []
            y = self.op("LayerNormalization", y, scale, *bias, axis=-1, epsilon=norm["eps"])
        return self.op("Reshape", y, self.ints(0, 0, -1)) if heads else y

    def _ones(self, norm: Json, x: Value, heads: int) -> Value:
        width = self.w.model["hidden_size"]
        return self.const(f"ones_{width}", np.ones(width, np.float32))

    def feed_forward(self, block: Json, index: int, x: Value) -> Value:
        if not self.flash:
            return feed_forward(self, block, x)
        return self.op("FlashFFN", x, domain=EDGEKIT, block=index)

    # --- attention and experts ---------------------------------------------------------------

    def _rope(self, index: int) -> tuple[Value, Value]:
        if index not in self._ropes:
            cos, sin = tables(self.w, index, self.context)
            self._ropes[index] = (self.const(f"rope.{index}.cos", cos), self.const(f"rope.{index}.sin", sin))
        return self._ropes[index]

    def _rotated(self, x: Value, rope: int, heads: int, dim: int) -> Value:
        """x [1, tokens, heads * head_dim] rotated in plain operators, for sizes GroupQueryAttention refuses."""
        cos, sin = (self.op("Unsqueeze", self.op("Gather", t, self._places()), self.ints(2)) for t in self._rope(rope))
        x = self.op("Reshape", x, self.ints(0, 0, heads, -1))

        def cut(begin: int, end: int) -> Value:
            return self.op("Slice", x, self.ints(begin), self.ints(end), self.ints(3))

        a, b = cut(0, dim // 2), cut(dim // 2, dim)
        first = self.op("Sub", self.op("Mul", a, cos), self.op("Mul", b, sin))
        second = self.op("Add", self.op("Mul", b, cos), self.op("Mul", a, sin))
        return self.op("Reshape", self.op("Concat", first, second, cut(dim, 1 << 30), axis=3), self.ints(0, 0, -1))

    def _padded(self, x: Value, heads: int, head_dim: int) -> Value:
        """Heads filled up with zeros to a size that GroupQueryAttention takes; scores stay the same."""
        x = self.op("Reshape", x, self.ints(0, 0, heads, head_dim))
        x = self.op("Pad", x, self.ints(0, 0, 0, 0, 0, 0, 0, head_width(head_dim) - head_dim))
        return self.op("Reshape", x, self.ints(0, 0, -1))

    def attend(self, q: Value, k: Value, v: Value, block: Json, layer: int) -> Value:
        heads, kv, d = block["heads"], block["kv_heads"], block["head_dim"]
        rotary: list[Value] = []
        if block.get("rope") is not None:
            dim = self.w.model["ropes"][block["rope"]]["dim"]
            if d % HEAD_STEP == 0 and dim % (2 * HEAD_STEP) == 0:
                rotary = list(self._rope(block["rope"]))
            else:
                q, k = (self._rotated(x, block["rope"], n, dim) for x, n in ((q, heads), (k, kv)))
        if d % HEAD_STEP:
            q, k, v = (self._padded(x, n, d) for x, n in ((q, heads), (k, kv), (v, kv)))
        out, key, value = self.ops(
            "GroupQueryAttention",
            [q, k, v, *self.pasts[2 * layer : 2 * layer + 2], self.seqlens, self.total, *rotary],
            3,
            MS,
            num_heads=heads,
            kv_num_heads=kv,
            scale=float(block["scale"]),
            local_window_size=block["window"] or -1,
            softcap=float(block["softcap"]),
            do_rotary=1 if rotary else 0,
        )
        for present, which in ((key, "key"), (value, "value")):
            present.name = f"present.{layer}.{which}"
            present.shape = ir.Shape(("batch", kv, "total", head_width(d)))
            present.type = ir.TensorType(ir.DataType.FLOAT)
        self.presents += [key, value]
        if d % HEAD_STEP:
            out = self.op("Reshape", out, self.ints(0, 0, heads, -1))
            out = self.op("Slice", out, self.ints(0), self.ints(d), self.ints(3))
            out = self.op("Reshape", out, self.ints(0, 0, -1))
        return out

    def route(self, logits: Value, top_k: int, normalize: bool) -> Value:
        p = self.op("Softmax", logits, axis=-1)
        best, which = self.ops("TopK", [p, self.ints(top_k)], 2, "", axis=-1, largest=1, sorted=1)
        if normalize:
            best = self.op("Div", best, self.op("ReduceSum", best, self.ints(-1), keepdims=1))
        return self.op("ScatterElements", self.scale(p, 0.0), which, best, axis=-1)

    def column(self, x: Value, index: int) -> Value:
        return self.op("Slice", x, self.ints(index), self.ints(index + 1), self.ints(2))


def head_width(head_dim: int) -> int:
    """Values of a head in the cache."""
    return -(-head_dim // HEAD_STEP) * HEAD_STEP


def _steps(w: Coded) -> npt.NDArray[np.float32]:
    """Scales f32; a group of equal values (scale 0) gets its bias as scale, so that zero points exist."""
    scale = w.scale.astype(np.float32)
    return scale if w.symmetric else np.where(scale == 0, np.where(w.bias == 0, 1, w.bias), scale).astype(np.float32)


def _pairs(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Codes [rows, cols], two in a byte up to 4 bits (an odd last one alone), low nibble first."""
    if bits > 4:
        return codes
    wide = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
    return wide[:, ::2] | (wide[:, 1::2] << np.uint8(4))
