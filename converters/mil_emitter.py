"""The blocks' operations as a Core ML program (MIL, iOS 18), built without a trace or a torch model.

Palettes are `constexpr_lut_to_dense`, affine codes `constexpr_blockwise_shift_scale`; both hold the bundle's
codes and nothing dense. Keys and values live in states. Every weight is [outputs, inputs].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from edgekit.converters.lower import Emitter
from edgekit.converters.rope import tables
from edgekit.converters.weights import Coded, Indexed, Json, Part, Weight, Weights

Var = Any  # coremltools has no types
Array = npt.NDArray[Any]
HIDDEN_SCORE = -30000.0  # of positions that a token does not see; its softmax is zero in f16
LEAST_GROUP = 8
SUB_BYTE = {b: types.string_to_nptype(f"uint{b}") for b in (1, 2, 3, 4, 6, 8)}


@dataclass
class Store:
    """Constants of all functions of a package: made once, and written once (`weight_id`)."""

    weights: Weights
    precision: str
    made: dict[str, Array] = field(default_factory=dict)

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Of the arithmetic."""
        return np.float16 if self.precision == "f16" else np.float32


class MilEmitter(Emitter[Var]):
    """Builds one function, within `with Function(...)`; `first`: position of its first token, i32 [1]."""

    def __init__(self, store: Store, tokens: int, context: int, first: Var, states: dict[str, Var]) -> None:
        self.store, self.w, self.dtype = store, store.weights, store.dtype
        self.tokens, self.context, self.states = tokens, context, states
        steps = mb.const(val=np.arange(tokens, dtype=np.int32))
        self.first = first
        self.places = mb.add(x=first, y=steps)  # [tokens]
        self._masks: dict[int, Var] = {}
        self._tables: dict[int, tuple[Var, Var]] = {}

    # --- constants ---------------------------------------------------------------------------

    def number(self, value: float) -> Var:
        """A scalar in the type of the arithmetic."""
        return self.dtype(value)

    def const(self, name: str, values: Array) -> Var:
        """A constant that functions share by its name."""
        kept = self.store.made.setdefault(name, values)
        out = mb.const(val=kept, name=f"{name}.const".replace(".", "_").replace("-", "_"))
        out.op.weight_id = name
        return out

    def _kept(self, name: str) -> Array | None:
        return self.store.made.get(name)

    def _weight(self, part: Part, mixed: bool = False) -> Var:
        """A weight [outputs, inputs]; `mixed`: it is stored [inputs, outputs]."""
        name = f"{part.label}.t" if mixed else part.label
        forms = ("codes", "scale", "offset", "lut", "dense")
        found = {form: kept for form in forms if (kept := self._kept(f"{name}.{form}")) is not None}
        found = found or _form(self.w.get(part), mixed, self.dtype)
        made = {form: self.const(f"{name}.{form}", values) for form, values in found.items()}
        if "lut" in made:
            return mb.constexpr_lut_to_dense(indices=made["codes"], lut=made["lut"])
        if "scale" in made:
            return mb.constexpr_blockwise_shift_scale(
                data=made["codes"], scale=made["scale"], offset=made.get("offset")
            )
        return made["dense"]

    def _vector(self, name: str) -> Array:
        return self.w.vector(name).astype(self.dtype)

    # --- linear ------------------------------------------------------------------------------

    def lookup(self, weight: Part, ids: Var) -> Var:
        return mb.gather(x=self._weight(weight), indices=ids, axis=0, validate_indices=False)

    def linear(self, x: Var, weight: Part, bias: str | None = None) -> Var:
        more = {} if bias is None else {"bias": self.const(bias, self._vector(bias))}
        return mb.linear(x=x, weight=self._weight(weight), **more)

    def mix(self, x: Var, weight: Part, bias: str | None = None) -> Var:
        more = {} if bias is None else {"bias": self.const(bias, self._vector(bias))}
        return mb.linear(x=x, weight=self._weight(weight, mixed=True), **more)

    def positions(self) -> Var:
        offset = self.w.model["embedding"].get("position_offset", 0)
        return mb.expand_dims(x=mb.add(x=self.places, y=np.int32(offset)), axes=[0])

    # --- arithmetic --------------------------------------------------------------------------

    def add(self, a: Var, b: Var) -> Var:
        return mb.add(x=a, y=b)

    def mul(self, a: Var, b: Var) -> Var:
        return mb.mul(x=a, y=b)

    def scale(self, x: Var, by: float) -> Var:
        return mb.mul(x=x, y=self.number(by))

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

    def norm(self, norm: Json, x: Var, heads: int = 0) -> Var:
        shape = list(x.shape)
        y = mb.reshape(x=x, shape=[*shape[:-1], heads, shape[-1] // heads]) if heads else x
        weight = self.const(norm["weight"], self._vector(norm["weight"])) if norm.get("weight") else None
        bias = self.const(norm["bias"], self._vector(norm["bias"])) if norm.get("bias") else None
        if norm["kind"] == "layer":
            more = {k: v for k, v in {"gamma": weight, "beta": bias}.items() if v is not None}
            y = mb.layer_norm(x=y, axes=[-1], epsilon=self.number(norm["eps"]), **more)
        else:
            y = self._rms(y, norm["eps"])
            y = y if weight is None else mb.mul(x=y, y=weight)
            y = y if bias is None else mb.add(x=y, y=bias)
        return mb.reshape(x=y, shape=shape) if heads else y

    def _rms(self, x: Var, eps: float) -> Var:
        """x / sqrt(mean(x^2) + eps), scaled by the largest value first: squares of an f16 overflow at 256."""
        most = mb.maximum(x=mb.reduce_max(x=mb.abs(x=x), axes=[-1], keep_dims=True), y=self.number(1 / 16))
        y = mb.real_div(x=x, y=most)
        least = mb.real_div(x=self.number(math.sqrt(eps)), y=most)
        mean = mb.reduce_mean(x=mb.mul(x=y, y=y), axes=[-1], keep_dims=True)
        return mb.mul(x=y, y=mb.rsqrt(x=mb.add(x=mean, y=mb.mul(x=least, y=least)), epsilon=self.number(0)))

    # --- attention and experts ---------------------------------------------------------------

    def _rope(self, index: int) -> tuple[Var, Var]:
        """cos and sin [tokens, dim / 2] of this call's positions."""
        if index not in self._tables:
            made = zip(("cos", "sin"), tables(self.w, index, self.context), strict=True)
            stored = [self.const(f"rope.{index}.{name}", t.astype(self.dtype)) for name, t in made]
            cos, sin = (mb.gather(x=t, indices=self.places, axis=0, validate_indices=False) for t in stored)
            self._tables[index] = (cos, sin)
        return self._tables[index]

    def _heads(self, x: Var, heads: int, d: int) -> Var:
        return mb.transpose(x=mb.reshape(x=x, shape=[1, self.tokens, heads, d]), perm=[0, 2, 1, 3])

    def _rotated(self, x: Var, index: int) -> Var:
        """x [1, heads, tokens, head_dim]"""
        cos, sin = self._rope(index)
        half, d = self.w.model["ropes"][index]["dim"] // 2, x.shape[-1]
        sizes = [n for n in (half, half, d - 2 * half) if n]
        a, b, *rest = mb.split(x=x, split_sizes=sizes, axis=-1)
        first = mb.sub(x=mb.mul(x=a, y=cos), y=mb.mul(x=b, y=sin))
        second = mb.add(x=mb.mul(x=b, y=cos), y=mb.mul(x=a, y=sin))
        return mb.concat(values=[first, second, *rest], axis=-1)

    def _cached(self, name: str, new: Var) -> Var:
        """A state [1, kv_heads, context, head_dim] with `new` written at this call's positions."""
        state = self.states[name]
        zero = np.array([0], np.int32)
        begin = mb.concat(values=[zero, zero, self.first, zero], axis=0)
        end = mb.concat(values=[zero, zero, mb.add(x=self.first, y=np.int32(self.tokens)), zero], axis=0)
        mask = [True, True, False, True]
        half = mb.cast(x=new, dtype="fp16") if self.dtype is np.float32 else new  # states are f16, always
        updated = mb.slice_update(
            x=mb.read_state(input=state), update=half, begin=begin, end=end, begin_mask=mask, end_mask=mask
        )
        kept = mb.coreml_update_state(state=state, value=updated)
        return mb.cast(x=kept, dtype="fp32") if self.dtype is np.float32 else kept

    def _mask(self, window: int) -> Var:
        """What is added to scores, [tokens, context]."""
        if window not in self._masks:
            at = mb.expand_dims(x=self.places, axes=[1])
            every = np.arange(self.context, dtype=np.int32)[None]
            seen = mb.less_equal(x=every, y=at)
            if window:
                seen = mb.logical_and(x=seen, y=mb.greater(x=every, y=mb.sub(x=at, y=np.int32(window))))
            self._masks[window] = mb.select(cond=seen, a=self.number(0), b=self.number(HIDDEN_SCORE))
        return self._masks[window]

    def attend(self, q: Var, k: Var, v: Var, block: Json, layer: int) -> Var:
        heads, kv, d = block["heads"], block["kv_heads"], block["head_dim"]
        queries, keys, values = self._heads(q, heads, d), self._heads(k, kv, d), self._heads(v, kv, d)
        if block.get("rope") is not None:
            queries, keys = self._rotated(queries, block["rope"]), self._rotated(keys, block["rope"])
        keys = mb.reshape(x=self._cached(f"key_{layer}", keys), shape=[kv, 1, self.context, d])
        values = mb.reshape(x=self._cached(f"value_{layer}", values), shape=[kv, 1, self.context, d])
        queries = mb.reshape(x=self.scale(queries, block["scale"]), shape=[kv, heads // kv, self.tokens, d])
        scores = mb.matmul(x=queries, y=keys, transpose_y=True)
        scores = self.cap(scores, block["softcap"]) if block["softcap"] else scores
        p = mb.softmax(x=mb.add(x=scores, y=self._mask(block["window"])), axis=-1)
        mixed = mb.reshape(x=mb.matmul(x=p, y=values), shape=[1, heads, self.tokens, d])
        return mb.reshape(x=mb.transpose(x=mixed, perm=[0, 2, 1, 3]), shape=[1, self.tokens, heads * d])

    def route(self, logits: Var, top_k: int, normalize: bool) -> Var:
        p = mb.softmax(x=logits, axis=-1)
        best, which = mb.topk(x=p, k=top_k, axis=-1, ascending=False)
        if normalize:
            best = mb.real_div(x=best, y=mb.reduce_sum(x=best, axes=[-1], keep_dims=True))
        return mb.scatter_along_axis(
            data=self.scale(p, 0), indices=which, updates=best, axis=-1, mode="update", validate_indices=False
        )

    def column(self, x: Var, index: int) -> Var:
        begin, end = np.array([0, 0, index], np.int32), np.array([0, 0, index + 1], np.int32)
        return mb.slice_by_index(x=x, begin=begin, end=end, begin_mask=[True, True, False], end_mask=[True, True, False])


def _form(w: Weight, mixed: bool, dtype: type[np.floating[Any]]) -> dict[str, Array]:
    """The constants of a weight [outputs, inputs]: codes with a lut or with scale and offset, or dense."""
    turn = (lambda a: np.ascontiguousarray(a.T)) if mixed else (lambda a: a)
    if isinstance(w, Indexed):
        step = math.gcd(len(w.codes), w.lut_rows)
        lut = w.lut[np.arange(0, len(w.codes), step) // w.lut_rows].astype(dtype)
        lut = lut[None, :, :, None] if mixed else lut[:, None, :, None]
        return {"codes": turn(w.codes).astype(SUB_BYTE[w.bits]), "lut": lut}
    if isinstance(w, Coded):
        step = math.gcd(w.codes.shape[1], w.group_size)
        if step >= LEAST_GROUP:
            index = np.arange(0, w.codes.shape[1], step) // w.group_size
            scale, bias = w.scale[:, index].astype(np.float32), w.bias[:, index].astype(np.float32)
            middle = np.uint8(1 << (w.bits - 1))
            if w.symmetric:
                offset: Array = np.full(scale.shape, middle).astype(SUB_BYTE[w.bits])
            else:
                scale = np.where(scale == 0, np.where(bias == 0, 1, bias), scale)
                offset = (-bias / scale).astype(dtype)
            codes = turn(w.codes).astype(SUB_BYTE[w.bits])
            return {"codes": codes, "scale": turn(scale).astype(dtype), "offset": turn(offset).astype(offset.dtype)}
    with np.errstate(over="ignore"):
        return {"dense": turn(w.dense()).astype(dtype)}
