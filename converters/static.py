"""What formats with fixed shapes share: attention over a whole cache, norms that do not overflow in f16, and how
weights are laid out as [outputs, inputs]. A format adds its operations (`MilEmitter`, `CoreAiEmitter`)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F32
from edgekit.codecs.forms import AffineForm, LookupForm
from edgekit.converters.lower import Emitter
from edgekit.converters.rope import tables
from edgekit.converters.weights import Json, Part, Weight, Weights, stored_bits

V = TypeVar("V")
Array = npt.NDArray[Any]
HIDDEN_SCORE = -30000.0  # of positions that a token does not see; its softmax is zero in f16
LEAST_GROUP = 8
COMPUTED_GROUP = 32  # columns of a group of a weight that these formats cannot compute and that is re-quantized
LEAST_LARGEST = 1 / 16  # what the largest value of a row is taken for at least


@dataclass(frozen=True)
class Form:
    """A weight [outputs, inputs] in the form that Apple's formats hold.

    Palette: codes, lut [row blocks, column blocks, 2^bits, 1], and `scale` if it has scales. Affine: codes, scale and
    either `zero` (a code) or `bias`, [row blocks, column blocks]; weight = scale * (code - zero) + bias. Else dense.
    """

    bits: int = 0
    codes: Array | None = None
    lut: Array | None = None
    scale: F32 | None = None
    zero: int = 0
    bias: F32 | None = None
    dense: F32 | None = None


def form_of(w: Weight, mixed: bool) -> Form:
    """The form of a weight; `mixed`: it is stored [inputs, outputs]. Blocks must divide the size, so that odd sizes
    get smaller blocks, and groups that would become too small get dense weights."""

    def turn(a: Array) -> Array:
        return np.ascontiguousarray(a.T) if mixed else a

    if isinstance(w, LookupForm):
        step = math.gcd(len(w.codes), w.lut_rows)
        lut = w.lut[np.arange(0, len(w.codes), step) // w.lut_rows]
        bits = w.bits if w.bits != 5 else 6  # Apple's formats have no tables of 32
        lut = np.pad(lut, ((0, 0), (0, (1 << bits) - lut.shape[1])))
        table = lut[None, :, :, None] if mixed else lut[:, None, :, None]
        if w.scale is None:
            return Form(bits, turn(w.codes), table)
        return _scaled(w, bits, turn, table)
    if isinstance(w, AffineForm):
        step = math.gcd(w.codes.shape[1], w.group_size)
        if step >= LEAST_GROUP:
            index = np.arange(0, w.codes.shape[1], step) // w.group_size
            scale, bias = w.scale[:, index].astype(np.float32), w.bias[:, index].astype(np.float32)
            if w.symmetric:
                return Form(w.bits, turn(w.codes), scale=turn(scale), zero=1 << (w.bits - 1))
            return Form(w.bits, turn(w.codes), scale=turn(scale), bias=turn(bias))
    return Form(dense=turn(w.dense()))


def _scaled(w: LookupForm, bits: int, turn: Callable[[Array], Array], table: Array) -> Form:
    """A palette with scales; blocks of columns divide the size."""
    assert w.scale is not None
    cols = w.codes.shape[1]
    step = math.gcd(cols, w.group_size) if w.group_size < cols else cols
    if step < LEAST_GROUP:
        return Form(dense=turn(w.dense()))
    return Form(bits, turn(w.codes), table, scale=turn(w.scale[:, np.arange(0, cols, step) // w.group_size]))


@dataclass
class Store:
    """Weights in their form, kept for all functions of an artifact."""

    weights: Weights
    precision: str
    bits: int = 0  # of weights that are computed from codes; 0: the next of 4 and 8 that holds their codes
    forms: dict[str, Form] = field(default_factory=dict)

    @property
    def dtype(self) -> type[np.floating[Any]]:
        """Of the arithmetic."""
        return np.float16 if self.precision == "f16" else np.float32

    def form(self, part: Part, mixed: bool) -> tuple[str, Form]:
        """A weight and its name."""
        name = f"{part.label}.t" if mixed else part.label
        if name not in self.forms:
            self.forms[name] = form_of(self._weight(part), mixed)
        return name, self.forms[name]

    def _weight(self, part: Part) -> Weight:
        """As it is stored; one that is computed from codes as affine codes, if its rows have whole groups."""
        if self.weights.form(part) != "computed" or self.weights.shape(part)[1] % COMPUTED_GROUP:
            return self.weights.get(part)
        bits = self.bits or stored_bits(self.weights.kind(part)["bits"])
        return self.weights.affine(part, bits, COMPUTED_GROUP, keep=False)


class StaticEmitter(Emitter[V]):
    """One function of `tokens` tokens over caches of `context` positions; values are [1, tokens, width]."""

    def __init__(self, store: Store, tokens: int, context: int) -> None:
        self.store, self.w, self.dtype = store, store.weights, store.dtype
        self.tokens, self.context = tokens, context
        self._masks: dict[int, V] = {}
        self._tables: dict[int, tuple[V, V]] = {}

    # --- a format's operations ---------------------------------------------------------------

    @abstractmethod
    def constant(self, name: str, values: Array) -> V:
        """A constant that functions share by its name."""

    @abstractmethod
    def reshape(self, x: V, *shape: int) -> V:
        """x with another shape."""

    @abstractmethod
    def transpose(self, x: V, *order: int) -> V:
        """x with its axes in another order."""

    @abstractmethod
    def product(self, x: V, y: V, transposed: bool) -> V:
        """Batched x y, or x y^T; batch axes broadcast."""

    @abstractmethod
    def sub(self, a: V, b: V) -> V:
        """a - b."""

    @abstractmethod
    def div(self, a: V, b: V) -> V:
        """a / b."""

    @abstractmethod
    def number(self, value: float) -> V:
        """A scalar in the type of the arithmetic."""

    @abstractmethod
    def largest(self, x: V) -> V:
        """Largest magnitude over the last axis, which stays, but `LEAST_LARGEST` at least."""

    @abstractmethod
    def mean(self, x: V) -> V:
        """Over the last axis, which stays."""

    @abstractmethod
    def rsqrt(self, x: V) -> V:
        """1 / sqrt(x)."""

    @abstractmethod
    def layer_norm(self, x: V, weight: V | None, bias: V | None, eps: float) -> V:
        """Over the last axis."""

    @abstractmethod
    def softmax(self, x: V) -> V:
        """Over the last axis."""

    @abstractmethod
    def split(self, x: V, sizes: Sequence[int]) -> list[V]:
        """Pieces along the last axis."""

    @abstractmethod
    def join(self, pieces: Sequence[V]) -> V:
        """The inverse of `split`."""

    @abstractmethod
    def at_places(self, table: V) -> V:
        """Rows of a table [context, n] at this call's positions: [tokens, n]."""

    @abstractmethod
    def cached(self, name: str, new: V) -> V:
        """The cache [1, kv_heads, context, head_dim] with `new` written at this call's positions."""

    @abstractmethod
    def mask(self, window: int) -> V:
        """What is added to scores [tokens, context]: 0, or HIDDEN_SCORE where a position is not seen."""

    # --- shared ------------------------------------------------------------------------------

    def vector(self, name: str) -> V:
        """A vector of the bundle."""
        return self.constant(name, self.w.vector(name).astype(self.dtype))

    def scale(self, x: V, by: float) -> V:
        return self.mul(x, self.number(by))

    def norm(self, norm: Json, x: V, heads: int = 0) -> V:
        width = self._width(x)
        y = self.reshape(x, 1, self.tokens, heads, width // heads) if heads else x
        weight = self.vector(norm["weight"]) if norm.get("weight") else None
        bias = self.vector(norm["bias"]) if norm.get("bias") else None
        if norm["kind"] == "layer":
            y = self.layer_norm(y, weight, bias, norm["eps"])
        else:
            y = self._rms(y, norm["eps"])
            y = y if weight is None else self.mul(y, weight)
            y = y if bias is None else self.add(y, bias)
        return self.reshape(y, 1, self.tokens, width) if heads else y

    @abstractmethod
    def _width(self, x: V) -> int:
        """Size of the last axis of x."""

    def _rms(self, x: V, eps: float) -> V:
        """x / sqrt(mean(x^2) + eps), scaled by the largest value first: squares of an f16 overflow at 256."""
        most = self.largest(x)
        y = self.div(x, most)
        least = self.div(self.number(math.sqrt(eps)), most)
        mean = self.add(self.mean(self.mul(y, y)), self.mul(least, least))
        return self.mul(y, self.rsqrt(mean))

    def _rope(self, index: int) -> tuple[V, V]:
        """cos and sin [tokens, dim / 2] of this call's positions."""
        if index not in self._tables:
            cos, sin = (
                self.at_places(self.constant(f"rope.{index}.{name}", t.astype(self.dtype)))
                for name, t in zip(("cos", "sin"), tables(self.w, index, self.context), strict=True)
            )
            self._tables[index] = (cos, sin)
        return self._tables[index]

    def _rotated(self, x: V, index: int, head_dim: int) -> V:
        """x [1, heads, tokens, head_dim]"""
        cos, sin = self._rope(index)
        half = self.w.model["ropes"][index]["dim"] // 2
        a, b, *rest = self.split(x, [n for n in (half, half, head_dim - 2 * half) if n])
        first = self.sub(self.mul(a, cos), self.mul(b, sin))
        second = self.add(self.mul(b, cos), self.mul(a, sin))
        return self.join([first, second, *rest])

    def probabilities(self, logits: V, block: Json) -> tuple[V, V]:
        """Of a router's experts, and what they are ranked by."""
        p = self.sigmoid(logits) if block.get("scoring") == "sigmoid" else self.softmax(logits)
        return p, p if block.get("choice_bias") is None else self.add(p, self.vector(block["choice_bias"]))

    def weighted(self, best: V, total: V, block: Json) -> V:
        """The weights of chosen experts from their probabilities, whose sum is `total`."""
        if block["normalize"]:
            eps = block.get("normalize_eps", 0.0)
            best = self.div(best, self.add(total, self.number(eps)) if eps else total)
        return self.scale(best, block["routed_scale"]) if "routed_scale" in block else best

    def convolve(self, x: V, block: Json, layer: int) -> V:
        raise AssertionError("refused before the walk begins")  # refuse_other_mixers

    def _sinks(self, block: Json) -> V:
        """Scores of a position that is not there, [kv_heads, heads of each, tokens, 1]."""
        heads, kv = block["heads"], block["kv_heads"]
        sinks = self.w.vector(block["sinks"]).astype(self.dtype).reshape(kv, heads // kv, 1, 1)
        whole = np.broadcast_to(sinks, (kv, heads // kv, self.tokens, 1))
        return self.constant(f"{block['sinks']}.{self.tokens}", np.ascontiguousarray(whole))

    def attend(self, q: V, k: V, v: V, block: Json, layer: int) -> V:
        heads, kv, d = block["heads"], block["kv_heads"], block["head_dim"]

        def apart(x: V, count: int) -> V:
            return self.transpose(self.reshape(x, 1, self.tokens, count, d), 0, 2, 1, 3)

        queries, keys, values = apart(q, heads), apart(k, kv), apart(v, kv)
        if block.get("rope") is not None:
            queries, keys = (self._rotated(x, block["rope"], d) for x in (queries, keys))
        keys = self.reshape(self.cached(f"key_{layer}", keys), kv, 1, self.context, d)
        values = self.reshape(self.cached(f"value_{layer}", values), kv, 1, self.context, d)
        queries = self.reshape(self.scale(queries, block["scale"]), kv, heads // kv, self.tokens, d)
        scores = self.product(queries, keys, True)
        scores = self.cap(scores, block["softcap"]) if block["softcap"] else scores
        if block["window"] not in self._masks:
            self._masks[block["window"]] = self.mask(block["window"])
        scores = self.add(scores, self._masks[block["window"]])
        if "sinks" in block:
            p, _ = self.split(self.softmax(self.join([scores, self._sinks(block)])), [self.context, 1])
        else:
            p = self.softmax(scores)
        mixed = self.reshape(self.product(p, values, False), 1, heads, self.tokens, d)
        return self.reshape(self.transpose(mixed, 0, 2, 1, 3), 1, self.tokens, heads * d)
