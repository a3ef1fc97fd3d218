"""The blocks' operations as a Core AI graph (coreai.authoring), built without torch.

Palettes are `lut_to_dense`, affine codes `blockwise_shift_scale`. Caches are inputs and outputs of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from coreai._compiler.dialects._coreai_ops_gen import ConstantOp
from coreai._compiler.ir import DenseResourceElementsAttr, F16Type, F32Type, IntegerType, RankedTensorType
from coreai.authoring import Value as AuthoringValue
from coreai.authoring import elementwise_unary_ops as unary
from coreai.authoring import reduction_ops as ops
from coreai.authoring.constant import constant

from edgekit.converters.static import HIDDEN_SCORE, LEAST_LARGEST, Array, StaticEmitter, Store
from edgekit.converters.weights import Json, Part, bitstream, stored_bits

Value = Any
ELEMENTS: dict[str, Any] = {"float16": F16Type.get, "float32": F32Type.get, "int32": lambda: IntegerType.get_signed(32)}


def i16(value: int) -> Value:
    """A scalar, as axes are."""
    return constant(np.array(value, np.int16))


def i32s(*values: int) -> Value:
    """A vector, as shapes and bounds are."""
    return constant(np.array(values, np.int32))


@dataclass
class Constants:
    """Large constants by name, as attributes of the module: graphs that use the same share its bytes. The names are
    ours, as those that coreai.authoring makes up differ from run to run."""

    attributes: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str, values: Array, bits: int = 0) -> Value:
        """A constant; `bits`: of unsigned codes, which coreai.authoring would keep a byte each."""
        if name not in self.attributes:
            if bits:
                element = IntegerType.get_unsigned(bits)
                raw = bitstream(values.reshape(1, -1), bits).reshape(-1)
            else:
                element, raw = ELEMENTS[values.dtype.name](), values
            kind = RankedTensorType.get(values.shape, element)
            data = np.ascontiguousarray(raw).data
            self.attributes[name] = DenseResourceElementsAttr.get_from_buffer(data, name, kind)
        return AuthoringValue._from_mlir(ConstantOp(value=self.attributes[name]).result)  # type: ignore[no-untyped-call]


class CoreAiEmitter(StaticEmitter[Value]):
    """Builds one graph; `first`: position of its first token, si32 [1]; `caches`: by name."""

    def __init__(
        self, store: Store, constants: Constants, tokens: int, context: int, first: Value, caches: dict[str, Value]
    ) -> None:
        super().__init__(store, tokens, context)
        self.constants, self.first, self.caches = constants, first, caches
        self.updated: dict[str, Value] = {}
        self.places = ops.broadcasting_add(first, constant(np.arange(tokens, dtype=np.int32)))  # [tokens]

    # --- weights -----------------------------------------------------------------------------

    def number(self, value: float) -> Value:
        return constant(np.array(value, self.dtype))

    def constant(self, name: str, values: Array) -> Value:
        return self.constants.value(name, values)

    def _weight(self, part: Part, mixed: bool = False) -> Value:
        """[outputs, inputs]"""
        name, form = self.store.form(part, mixed)
        if form.codes is None:
            assert form.dense is not None
            with np.errstate(over="ignore"):
                return self.constant(name, form.dense.astype(self.dtype))
        width = form.bits if form.lut is not None else stored_bits(form.bits)
        codes = self.constants.value(f"{name}.codes", form.codes, width)
        if form.lut is not None:
            values = ops.lut_to_dense(codes, self.constant(f"{name}.lut", form.lut.astype(self.dtype)), i16(0))
            return values if form.scale is None else self._scaled(name, values, form.scale)
        assert form.scale is not None
        zero = np.full(form.scale.shape, form.zero, np.uint8)
        bias = np.zeros(form.scale.shape) if form.bias is None else form.bias
        return ops.blockwise_shift_scale(
            codes,
            self.constant(f"{name}.scale", form.scale.astype(self.dtype)),
            self.constants.value(f"{name}.zero", zero, width),
            self.constant(f"{name}.bias", bias.astype(self.dtype)),
        )

    def _scaled(self, name: str, values: Value, scale: Array) -> Value:
        """Values [rows, cols] times the scales [row blocks, column blocks] of their blocks."""
        rows, cols = (int(n) for n in values.type.shape)
        blocks = self.constant(f"{name}.scale", scale.astype(self.dtype)[:, None, :, None])
        shaped = self.reshape(values, scale.shape[0], rows // scale.shape[0], scale.shape[1], cols // scale.shape[1])
        return self.reshape(ops.broadcasting_mul(shaped, blocks), rows, cols)

    def lookup(self, weight: Part, ids: Value) -> Value:
        return ops.gather_nd(self._weight(weight), ops.expand_dims(ids, i32s(-1)))

    def linear(self, x: Value, weight: Part, bias: str | None = None) -> Value:
        y = self.product(x, self._weight(weight), True)
        return y if bias is None else self.add(y, self.vector(bias))

    def mix(self, x: Value, weight: Part, bias: str | None = None) -> Value:
        y = self.product(x, self._weight(weight, mixed=True), True)
        return y if bias is None else self.add(y, self.vector(bias))

    # --- arithmetic --------------------------------------------------------------------------

    def positions(self) -> Value:
        offset = self.w.model["embedding"].get("position_offset", 0)
        return ops.expand_dims(ops.broadcasting_add(self.places, i32s(offset)), i32s(0))

    def add(self, a: Value, b: Value) -> Value:
        return ops.broadcasting_add(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return ops.broadcasting_sub(a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return ops.broadcasting_mul(a, b)

    def div(self, a: Value, b: Value) -> Value:
        return ops.broadcasting_divide(a, b)

    def cap(self, x: Value, at: float) -> Value:
        return self.scale(unary.tanh(self.scale(x, 1 / at)), at)

    def activate(self, kind: str, threshold: float, x: Value) -> Value:
        if kind == "silu":
            return ops.silu(x)
        if kind in ("gelu", "gelu_tanh"):
            return ops.gelu(x, approximate="none" if kind == "gelu" else "tanh")
        if kind == "threshold":
            return ops.broadcasting_where(ops.broadcasting_greater(x, self.number(threshold)), x, self.number(0))
        y = ops.relu(self.sub(x, self.number(threshold)) if kind == "shifted_relu" else x)
        return self.mul(y, y) if kind == "relu2" else y

    def clamp(self, x: Value, least: float | None, most: float) -> Value:
        x = x if least is None else ops.broadcasting_maximum(x, self.number(least))
        return ops.broadcasting_minimum(x, self.number(most))

    def sigmoid(self, x: Value) -> Value:
        return ops.sigmoid(x)

    def largest(self, x: Value) -> Value:
        return ops.broadcasting_maximum(ops.reduce_max(unary.abs_(x), i32s(-1)), self.number(LEAST_LARGEST))

    def mean(self, x: Value) -> Value:
        return ops.reduce_mean(x, i32s(-1))

    def rsqrt(self, x: Value) -> Value:
        return ops.rsqrt(x)

    def layer_norm(self, x: Value, weight: Value | None, bias: Value | None, eps: float) -> Value:
        y = self._rms(self.sub(x, self.mean(x)), eps)
        y = y if weight is None else self.mul(y, weight)
        return y if bias is None else self.add(y, bias)

    def _width(self, x: Value) -> int:
        return int(x.type.shape[-1])

    # --- shapes ------------------------------------------------------------------------------

    def reshape(self, x: Value, *shape: int) -> Value:
        return ops.reshape(x, i32s(*shape))

    def transpose(self, x: Value, *order: int) -> Value:
        return ops.transpose(x, constant(np.array(order, np.uint32)))

    def product(self, x: Value, y: Value, transposed: bool) -> Value:
        if transposed:
            order = list(range(len(y.type.shape)))
            y = self.transpose(y, *order[:-2], order[-1], order[-2])
        return ops.broadcasting_batch_matmul(x, y)

    def softmax(self, x: Value) -> Value:
        return ops.softmax(x, i16(-1))

    def split(self, x: Value, sizes: Sequence[int]) -> list[Value]:
        shape = [int(n) for n in x.type.shape]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        none, one = [0] * (len(shape) - 1), i32s(*[1] * len(shape))
        return [
            ops.slice_(x, i32s(*none, end - size), i32s(*shape[:-1], end), one)
            for size, end in zip(sizes, ends, strict=True)
        ]

    def join(self, pieces: Sequence[Value]) -> Value:
        return ops.concat(i16(-1), list(pieces))

    # --- cache and experts -------------------------------------------------------------------

    def at_places(self, table: Value) -> Value:
        return ops.gather_nd(table, ops.expand_dims(self.places, i32s(-1)))

    def cached(self, name: str, new: Value) -> Value:
        kv, d = (int(new.type.shape[axis]) for axis in (1, 3))
        last = ops.broadcasting_add(self.first, i32s(self.tokens))
        begin = ops.concat(i16(0), [i32s(0, 0), self.first, i32s(0)])
        end = ops.concat(i16(0), [i32s(1, kv), last, i32s(d)])
        self.updated[name] = ops.slice_update(self.caches[name], begin, end, i32s(1, 1, 1, 1), new)
        return self.updated[name]

    def mask(self, window: int) -> Value:
        at = ops.expand_dims(self.places, i32s(1))  # [tokens, 1]
        every = self.constant("every", np.arange(self.context, dtype=np.int32)[None])
        hidden = ops.broadcasting_greater(every, at)
        out = ops.broadcasting_where(hidden, self.number(HIDDEN_SCORE), self.number(0))
        if window:
            seen = ops.broadcasting_greater(every, ops.broadcasting_sub(at, i32s(window)))
            out = ops.broadcasting_where(seen, out, self.number(HIDDEN_SCORE))
        return out

    def route(self, logits: Value, block: Json) -> Value:
        p, ranked = self.probabilities(logits, block)
        which = ops.argsort(ranked, i16(2), constant(np.array(True)), constant(np.array(True)))
        which, _ = self.split(which, [block["top_k"], int(p.type.shape[-1]) - block["top_k"]])
        best = ops.gather_along_axis(p, which, i16(2))
        best = self.weighted(best, ops.reduce_sum(best, i32s(-1)), block)
        return ops.scatter_along_axis(p.type, self.scale(p, 0), which, best, i16(2), scatter_mode="update")

    def column(self, x: Value, index: int) -> Value:
        return ops.slice_(x, i32s(0, 0, index), i32s(1, self.tokens, index + 1), i32s(1, 1, 1))
