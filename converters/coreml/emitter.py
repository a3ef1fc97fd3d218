"""The blocks' operations as a Core ML program (MIL, iOS 18), built without a trace or a torch model.

Palettes are `constexpr_lut_to_dense`, affine codes `constexpr_blockwise_shift_scale`; both hold the bundle's
codes and nothing dense. Keys and values live in states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from edgekit.converters.static import HIDDEN_SCORE, LEAST_LARGEST, Array, StaticEmitter, Store
from edgekit.converters.weights import Json, Part, stored_bits

Var = Any  # coremltools has no types
CODES = {b: types.string_to_nptype(f"uint{b}") for b in (1, 2, 3, 4, 6, 8)}
SIGNED = {b: types.string_to_nptype(f"int{b}") for b in (4, 8)}


class MilEmitter(StaticEmitter[Var]):
    """Builds one function, within `with Function(...)`; `first`: position of its first token, i32 [1]."""

    def __init__(self, store: Store, tokens: int, context: int, first: Var, states: dict[str, Var]) -> None:
        super().__init__(store, tokens, context)
        self.first, self.states = first, states
        self.places = mb.add(x=first, y=np.arange(tokens, dtype=np.int32))  # [tokens]
        self.made: dict[str, Var] = {}

    # --- weights -----------------------------------------------------------------------------

    def number(self, value: float) -> Var:
        return self.dtype(value)

    def constant(self, name: str, values: Array) -> Var:
        if name not in self.made:
            out = mb.const(val=values, name=f"{name}.const".replace(".", "_").replace("-", "_"))
            out.op.weight_id = name  # functions write what has the same name once
            self.made[name] = out
        return self.made[name]

    def _weight(self, part: Part, mixed: bool = False) -> Var:
        name, form = self.store.form(part, mixed)
        if form.codes is None:
            assert form.dense is not None
            with np.errstate(over="ignore"):
                return self.constant(name, form.dense.astype(self.dtype))
        if form.lut is not None:
            codes = self.constant(f"{name}.codes", form.codes.view(CODES[form.bits]))
            lut = self.constant(f"{name}.lut", form.lut.astype(self.dtype))
            values = mb.constexpr_lut_to_dense(indices=codes, lut=lut)
            if form.scale is None:
                return values
            scale = self.constant(f"{name}.scale", form.scale.astype(self.dtype))
            return mb.constexpr_blockwise_shift_scale(data=values, scale=scale)
        assert form.scale is not None
        if form.bias is None:  # codes around zero need no offset
            signed = (form.codes - np.uint8(form.zero)).view(np.int8).view(SIGNED[stored_bits(form.bits)])
            return mb.constexpr_blockwise_shift_scale(
                data=self.constant(f"{name}.codes", signed),
                scale=self.constant(f"{name}.scale", form.scale.astype(self.dtype)),
            )
        # scale * (code - offset), so that a group of equal values needs a scale.
        scale = np.where(form.scale == 0, np.where(form.bias == 0, 1, form.bias), form.scale)
        return mb.constexpr_blockwise_shift_scale(
            data=self.constant(f"{name}.codes", form.codes.view(CODES[stored_bits(form.bits)])),
            scale=self.constant(f"{name}.scale", scale.astype(self.dtype)),
            offset=self.constant(f"{name}.offset", (-form.bias / scale).astype(self.dtype)),
        )

    def lookup(self, weight: Part, ids: Var) -> Var:
        return mb.gather(x=self._weight(weight), indices=ids, axis=0, validate_indices=False)

    def linear(self, x: Var, weight: Part, bias: str | None = None) -> Var:
        more = {} if bias is None else {"bias": self.vector(bias)}
        return mb.linear(x=x, weight=self._weight(weight), **more)

    def mix(self, x: Var, weight: Part, bias: str | None = None) -> Var:
        more = {} if bias is None else {"bias": self.vector(bias)}
        return mb.linear(x=x, weight=self._weight(weight, mixed=True), **more)

    # --- arithmetic --------------------------------------------------------------------------

    def positions(self) -> Var:
        offset = self.w.model["embedding"].get("position_offset", 0)
        return mb.expand_dims(x=mb.add(x=self.places, y=np.int32(offset)), axes=[0])

    def add(self, a: Var, b: Var) -> Var:
        return mb.add(x=a, y=b)

    def sub(self, a: Var, b: Var) -> Var:
        return mb.sub(x=a, y=b)

    def mul(self, a: Var, b: Var) -> Var:
        return mb.mul(x=a, y=b)

    def div(self, a: Var, b: Var) -> Var:
        return mb.real_div(x=a, y=b)

    def cap(self, x: Var, at: float) -> Var:
        return self.scale(mb.tanh(x=self.scale(x, 1 / at)), at)

    def activate(self, kind: str, threshold: float, x: Var) -> Var:
        if kind == "silu":
            return mb.silu(x=x)
        if kind in ("gelu", "gelu_tanh"):
            return mb.gelu(x=x, mode="EXACT" if kind == "gelu" else "TANH_APPROXIMATION")
        if kind == "threshold":
            return mb.select(cond=mb.greater(x=x, y=self.number(threshold)), a=x, b=self.number(0))
        y = mb.relu(x=mb.sub(x=x, y=self.number(threshold)) if kind == "shifted_relu" else x)
        return mb.mul(x=y, y=y) if kind == "relu2" else y

    def clamp(self, x: Var, least: float | None, most: float) -> Var:
        x = x if least is None else mb.maximum(x=x, y=self.number(least))
        return mb.minimum(x=x, y=self.number(most))

    def sigmoid(self, x: Var) -> Var:
        return mb.sigmoid(x=x)

    def largest(self, x: Var) -> Var:
        most = mb.reduce_max(x=mb.abs(x=x), axes=[-1], keep_dims=True)
        return mb.maximum(x=most, y=self.number(LEAST_LARGEST))

    def mean(self, x: Var) -> Var:
        return mb.reduce_mean(x=x, axes=[-1], keep_dims=True)

    def rsqrt(self, x: Var) -> Var:
        return mb.rsqrt(x=x, epsilon=self.number(0))

    def layer_norm(self, x: Var, weight: Var | None, bias: Var | None, eps: float) -> Var:
        more = {k: v for k, v in {"gamma": weight, "beta": bias}.items() if v is not None}
        return mb.layer_norm(x=x, axes=[-1], epsilon=self.number(eps), **more)

    def _width(self, x: Var) -> int:
        return int(x.shape[-1])

    # --- shapes ------------------------------------------------------------------------------

    def reshape(self, x: Var, *shape: int) -> Var:
        return mb.reshape(x=x, shape=list(shape))

    def transpose(self, x: Var, *order: int) -> Var:
        return mb.transpose(x=x, perm=list(order))

    def product(self, x: Var, y: Var, transposed: bool) -> Var:
        return mb.matmul(x=x, y=y, transpose_y=transposed)

    def softmax(self, x: Var) -> Var:
        return mb.softmax(x=x, axis=-1)

    def split(self, x: Var, sizes: Sequence[int]) -> list[Var]:
        return list(mb.split(x=x, split_sizes=list(sizes), axis=-1))

    def join(self, pieces: Sequence[Var]) -> Var:
        return mb.concat(values=list(pieces), axis=-1)

    # --- cache and experts -------------------------------------------------------------------

    def at_places(self, table: Var) -> Var:
        return mb.gather(x=table, indices=self.places, axis=0, validate_indices=False)

    def cached(self, name: str, new: Var) -> Var:
        state, zero = self.states[name], np.array([0], np.int32)
        begin = mb.concat(values=[zero, zero, self.first, zero], axis=0)
        end = mb.concat(values=[zero, zero, mb.add(x=self.first, y=np.int32(self.tokens)), zero], axis=0)
        mask = [True, True, False, True]
        wide = self.dtype is np.float32  # states are f16, always
        updated = mb.slice_update(
            x=mb.read_state(input=state),
            update=mb.cast(x=new, dtype="fp16") if wide else new,
            begin=begin,
            end=end,
            begin_mask=mask,
            end_mask=mask,
        )
        kept = mb.coreml_update_state(state=state, value=updated)
        return mb.cast(x=kept, dtype="fp32") if wide else kept

    def mask(self, window: int) -> Var:
        at = mb.expand_dims(x=self.places, axes=[1])
        every = np.arange(self.context, dtype=np.int32)[None]
        seen = mb.less_equal(x=every, y=at)
        if window:
            seen = mb.logical_and(x=seen, y=mb.greater(x=every, y=mb.sub(x=at, y=np.int32(window))))
        return mb.select(cond=seen, a=self.number(0), b=self.number(HIDDEN_SCORE))

    def route(self, logits: Var, block: Json) -> Var:
        p, ranked = self.probabilities(logits, block)
        best, which = mb.topk(x=ranked, k=block["top_k"], axis=-1, ascending=False)
        if ranked is not p:
            best = mb.gather_along_axis(x=p, indices=which, axis=-1, validate_indices=False)
        best = self.weighted(best, mb.reduce_sum(x=best, axes=[-1], keep_dims=True), block)
        return mb.scatter_along_axis(
            data=self.scale(p, 0), indices=which, updates=best, axis=-1, mode="update", validate_indices=False
        )

    def column(self, x: Var, index: int) -> Var:
        begin, end = np.array([0, 0, index], np.int32), np.array([0, 0, index + 1], np.int32)
        return mb.slice_by_index(
            x=x, begin=begin, end=end, begin_mask=[True, True, False], end_mask=[True, True, False]
        )
