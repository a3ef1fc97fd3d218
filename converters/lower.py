"""One walk over a model's blocks, for every format.

`lower` reads the manifest's block list and calls an `Emitter`, which knows the format's operations and
nothing of models. Values stand for tensors [1, tokens, width]; an emitter is free to choose what a value
is: a node's output in a graph, or an array computed at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgekit.converters.weights import Json, Part, feed_forward_parts, part_of
from edgekit.errors import ConvertError

V = TypeVar("V")
QUICK_GELU = 1.702  # x * sigmoid(1.702 x)


class Emitter(ABC, Generic[V]):
    """The operations of a format. Shapes: x [1, tokens, width]."""

    @abstractmethod
    def lookup(self, weight: Part, ids: V) -> V:
        """Rows `ids` [1, tokens] of a weight."""

    @abstractmethod
    def linear(self, x: V, weight: Part, bias: str | None = None) -> V:
        """x W^T + b of a weight [outputs, inputs]."""

    @abstractmethod
    def mix(self, x: V, weight: Part, bias: str | None = None) -> V:
        """x W + b of a weight [inputs, outputs]: the down projection."""

    @abstractmethod
    def positions(self) -> V:
        """Position of each token [1, tokens]."""

    def types(self) -> V:
        """Type of each token [1, tokens]. A format without encoders refuses them by name."""
        raise ConvertError("this format has no token types")

    @abstractmethod
    def add(self, a: V, b: V) -> V:
        """a + b."""

    @abstractmethod
    def mul(self, a: V, b: V) -> V:
        """a * b, elementwise."""

    @abstractmethod
    def scale(self, x: V, by: float) -> V:
        """x * by."""

    @abstractmethod
    def cap(self, x: V, at: float) -> V:
        """at * tanh(x / at)."""

    @abstractmethod
    def activate(self, kind: str, threshold: float, x: V) -> V:
        """An activation of the manifest (docs/format.md)."""

    @abstractmethod
    def clamp(self, x: V, least: float | None, most: float) -> V:
        """x, but not below `least` and not above `most`."""

    @abstractmethod
    def sigmoid(self, x: V) -> V:
        """1 / (1 + exp(-x))."""

    @abstractmethod
    def norm(self, norm: Json, x: V, heads: int = 0) -> V:
        """RMS or layer norm over the width, or over each of `heads` parts of it."""

    @abstractmethod
    def attend(self, q: V, k: V, v: V, block: Json, layer: int) -> V:
        """Rotates, appends to the cache of block `layer`, attends: [1, tokens, heads * head_dim]. Layers count the
        blocks that look at other tokens."""

    @abstractmethod
    def convolve(self, x: V, block: Json, layer: int) -> V:
        """Appends x [1, tokens, width] to the cache of block `layer` and mixes each channel over the block's taps."""

    def recur(self, q: V, k: V, v: V, beta: V, decay: V, block: Json, layer: int) -> V:
        """What each token reads from the state of linear attention block `layer`: [1, tokens, value_heads * value_dim].

        Convolves q, k and v with the inputs that were kept, and changes the state token by token (docs/format.md). A
        format without it refuses such blocks by name (`refuse_other_mixers`).
        """
        raise ConvertError("this format has no linear attention")

    @abstractmethod
    def route(self, logits: V, block: Json) -> V:
        """Weight of each expert, zero for those not chosen: [1, tokens, experts]."""

    @abstractmethod
    def column(self, x: V, index: int) -> V:
        """One column of x, [1, tokens, 1]."""

    def feed_forward(self, block: Json, index: int, x: V) -> V:
        """A feed-forward block; `index` is its place in the model's list. Formats may do it as a whole."""
        return feed_forward(self, block, x)


def lower(model: Json, e: Emitter[V], ids: V) -> V:
    """Logits [1, tokens, vocabulary] of tokens [1, tokens]; of a model that writes none, hidden states."""
    stop = segment(model, e, None, (ids,))
    while stop.block is not None:
        out = e.feed_forward(model["blocks"][stop.block], stop.block, stop.values[1])
        stop = segment(model, e, stop.block, (stop.values[0], out))
    return stop.values[0]


@dataclass(frozen=True)
class Stop(Generic[V]):
    """Where a segment ends: before feed-forward block `block` with (residual, the block's input), or, None, at the
    end with (logits,)."""

    block: int | None
    values: tuple[V, ...]


def segment(model: Json, e: Emitter[V], after: int | None, given: tuple[V, ...]) -> Stop[V]:
    """The model from its beginning, given (ids,), or from feed-forward block `after` on, given (residual, what the
    block computed), up to the next feed-forward block."""
    blocks = model["blocks"]
    x = embed(model, e, given[0]) if after is None else block_output(blocks[after], e, *given)
    before = x if after is None else given[0]  # what the preceding block read: none is parallel to a parallel one
    begin = 0 if after is None else after + 1
    layer = len(mixers(blocks[:begin]))
    for index in range(begin, len(blocks)):
        block = blocks[index]
        before = before if block.get("parallel") else x
        source = block_input(block, e, before)
        if block["kind"] not in MIXERS:
            return Stop(index, (x, source))
        x = block_output(block, e, x, MIXERS[block["kind"]](e, block, source, layer))
        layer += 1
    return Stop(None, (head(model, e, x),))


def embed(model: Json, e: Emitter[V], ids: V) -> V:
    """Tokens to the residual stream."""
    table = model["embedding"]
    x = e.lookup(Part(table["matrix"]), ids)
    x = e.scale(x, table["scale"]) if table["scale"] != 1 else x
    x = e.linear(x, Part(table["project"])) if "project" in table else x
    if "position" in table:
        x = e.add(x, e.lookup(Part(table["position"]), e.positions()))
    if "types" in table:
        x = e.add(x, e.lookup(Part(table["types"]), e.types()))
    return e.norm(table["norm"], x) if "norm" in table else x


def block_input(block: Json, e: Emitter[V], x: V) -> V:
    """What a block computes with: the residual, after its norm."""
    x = e.norm(block["pre_norm"], x) if "pre_norm" in block else x
    return e.activate("relu", 0, x) if block.get("pre_relu") else x


def block_output(block: Json, e: Emitter[V], x: V, out: V) -> V:
    """The residual with what a block computed."""
    out = e.norm(block["post_norm"], out) if "post_norm" in block else out
    out = e.scale(out, block["residual_scale"]) if "residual_scale" in block else out
    x = e.add(x, out)
    return e.norm(block["out_norm"], x) if "out_norm" in block else x


def attention(e: Emitter[V], block: Json, x: V, layer: int) -> V:
    """An attention block, projections included."""

    def project(which: str, heads: int) -> V:
        y = e.linear(x, Part(block[which]), block.get(f"{which}_bias"))
        norm = block.get(f"{which}_norm")
        return y if norm is None else e.norm(norm, y, heads if norm["per_head"] else 0)

    q = project("q", block["heads"])
    k, v = project("k", block["kv_heads"]), project("v", block["kv_heads"])
    out = e.attend(q, k, v, block, layer)
    if "gate" in block:
        out = e.mul(out, e.sigmoid(e.linear(x, Part(block["gate"]), block.get("gate_bias"))))
    out = e.norm(block["o_norm"], out) if "o_norm" in block else out
    return e.linear(out, Part(block["o"]), block.get("o_bias"))


def linear_attention(e: Emitter[V], block: Json, x: V, layer: int) -> V:
    """A linear attention block."""
    q, k, v, beta = (e.linear(x, Part(block[which])) for which in ("q", "k", "v", "beta"))
    decay = e.linear(x, Part(block["decay"]), block["decay_bias"])
    out = e.norm(block["norm"], e.recur(q, k, v, beta, decay, block, layer), block["value_heads"])
    gate = e.activate("silu", 0, e.linear(x, Part(block["gate"])))
    return e.linear(e.mul(out, gate), Part(block["o"]))


def convolution(e: Emitter[V], block: Json, x: V, layer: int) -> V:
    """A gated short convolution."""

    def project(which: str) -> V:
        return e.linear(x, Part(block[which]), block.get(f"{which}_bias"))

    mixed = e.convolve(e.mul(project("gate_in"), project("value")), block, layer)
    return e.linear(e.mul(project("gate_out"), mixed), Part(block["o"]), block.get("o_bias"))


MIXERS: dict[str, Callable[[Emitter[Any], Json, Any, int], Any]] = {
    "attention": attention,
    "convolution": convolution,
    "linear_attention": linear_attention,
}


def mixers(blocks: Sequence[Json]) -> list[Json]:
    """The blocks that look at other tokens; each has a cache, by its place among them."""
    return [b for b in blocks if b["kind"] in MIXERS]


def refuse_other_mixers(model: Json, kind: str, known: Sequence[str]) -> None:
    """Refuses a model whose blocks an export does not write.

    Raises:
        ConvertError: names the blocks.
    """
    found = {b["kind"] for b in mixers(model["blocks"])} - set(known)
    if found:
        raise ConvertError(
            f"{kind}: this model has blocks of the kind {', '.join(sorted(found))}, which that export does not write; "
            "run the bundle itself, or export onnx or mlx-exact"
        )


def feed_forward(e: Emitter[V], block: Json, x: V) -> V:
    """A feed-forward block in primitive operations. Of a mixture, every expert is computed."""
    if block["kind"] == "ffn":
        out = neurons(e, block, block["matrices"][0], x, 0)
        return e.mul(out, e.sigmoid(e.linear(x, Part(block["output_gate"])))) if "output_gate" in block else out
    weights = e.route(e.linear(x, Part(block["router"]), block.get("router_bias")), block)
    total: V | None = None
    for i, matrix in enumerate(block["matrices"]):
        out = e.mul(neurons(e, block, matrix, x, i), e.column(weights, i))
        total = out if total is None else e.add(total, out)
    assert total is not None
    return total


def neurons(e: Emitter[V], block: Json, matrix: str, x: V, expert: int) -> V:
    """All neurons of a dense block or of one expert."""
    gate, up, down = feed_forward_parts(block, matrix)

    def bias(which: str) -> str | None:
        name = block.get(f"{which}_bias")
        return name if name is None or block["kind"] == "ffn" else part_of(name, expert, len(block["matrices"]))

    y = e.linear(x, up, bias("up"))
    if gate is None:
        return e.mix(activated(e, block, y), down, bias("down"))
    z = e.linear(x, gate, bias("gate"))
    if "limit" in block:
        y, z = e.clamp(y, -block["limit"], block["limit"]), e.clamp(z, None, block["limit"])
    y = e.activate("relu", 0, y) if block.get("up_relu") else y
    z = activated(e, block, z)
    gated = e.mul(z, y)
    gated = e.add(gated, e.scale(z, block["up_add"])) if "up_add" in block else gated
    gated = e.norm(block["down_norm"], gated) if "down_norm" in block else gated
    return e.mix(gated, down, bias("down"))


def activated(e: Emitter[V], block: Json, x: V) -> V:
    """A block's activation."""
    if block["activation"] == "quick_gelu":
        return e.mul(x, e.sigmoid(e.scale(x, QUICK_GELU)))
    return e.activate(block["activation"], block["threshold"], x)


def head(model: Json, e: Emitter[V], x: V) -> V:
    """The residual stream to logits, or to hidden states."""
    x = e.norm(model["final_norm"], x) if "final_norm" in model else x
    if model.get("output", "logits") != "logits":
        return x
    table: dict[str, Any] = model["head"]
    x = e.linear(x, Part(table["project"])) if "project" in table else x
    x = e.linear(x, Part(table["matrix"]), table.get("bias"))
    x = e.scale(x, table["scale"]) if "scale" in table else x
    return e.cap(x, table["softcap"]) if table["softcap"] else x
