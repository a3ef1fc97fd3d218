"""A forward pass in torch over a bundle's manifest, for what needs gradients.

It reads the same block list as the runtime. A stage is a block with the parallel ones after it: what it computes
depends on nothing but the hidden states before it, so that a backward pass can go stage by stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.errors import ConvertError

Json = dict[str, Any]
KINDS = ("attention", "convolution", "ffn", "experts")  # of blocks
Tap = Callable[[str, int, Tensor, Tensor], None]  # a matrix, its part, the part's input and output [..., n]


class Weights(Protocol):
    """Where a decoder takes its weights from, by their names in the bundle."""

    def matrix(self, name: str) -> Sequence[Tensor]:
        """The parts of a matrix, each [rows, cols] as the bundle stores it."""

    def vector(self, name: str) -> Tensor:
        """A vector [count]."""


def activate(name: str, threshold: float, x: Tensor) -> Tensor:
    """The activation of a feed-forward block, by its name in the manifest."""
    if name == "silu":
        return F.silu(x)
    if name in ("gelu", "gelu_tanh"):
        return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    if name == "relu2":
        return torch.relu(x) ** 2
    if name == "shifted_relu":
        return torch.relu(x - threshold)
    return torch.where(x > (threshold if name == "threshold" else 0), x, torch.zeros_like(x))


def without_gradients(model: Json) -> str | None:
    """What of a manifest's model a decoder cannot compute; None if nothing."""
    for block in model["blocks"]:
        if block["kind"] not in KINDS:
            return f"'{block['kind']}' blocks"
        if not block.get("causal", True):
            return "attention to tokens behind, as encoders have"
        if "source" in block:  # stages would depend on more than the hidden states before them
            return "attention with the keys of another layer"
    return "embeddings of each layer" if "layers" in model["embedding"] else None


class Decoder:
    """A model: token ids [texts, length] to logits [texts, length, vocabulary]. Texts are filled up on the right."""

    def __init__(self, model: Json, weights: Weights, tap: Tap | None = None) -> None:
        """Takes the `model` of a manifest, and calls `tap` for every product with a matrix.

        Raises:
            ConvertError: a kind of block that it does not know.
        """
        self.model, self.weights, self.tap = model, weights, tap
        lacking = without_gradients(model)
        if lacking is not None:
            raise ConvertError(f"this model has {lacking}, for which there are no gradients")
        parallel = [bool(b.get("parallel")) for b in model["blocks"]]
        begins = [i for i, joined in enumerate(parallel) if not joined]
        ends = [*begins[1:], len(parallel)]
        self.stages = [range(begin, end) for begin, end in zip(begins, ends, strict=True)]

    def logits(self, ids: Tensor) -> Tensor:
        """Logits [texts, length, vocabulary] of token ids [texts, length]."""
        x = self.embed(ids)
        for stage in self.stages:
            x = self.run(stage, x)
        return self.head(x)

    def embed(self, ids: Tensor, found: Tensor | None = None) -> Tensor:
        """Hidden states [texts, length, hidden] before the first block; `found`: the embedding's rows, if known."""
        e = self.model["embedding"]
        x = (self._looked_up(e["matrix"], ids) if found is None else found) * e["scale"]
        if "project" in e:
            x = self._linear(e["project"], 0, x)
        if "position" in e:
            at = torch.arange(ids.shape[1]) + e["position_offset"]
            x = x + self._looked_up(e["position"], at.expand_as(ids))
        return self._norm(e.get("norm"), x)

    def run(self, stage: range, x: Tensor) -> Tensor:
        """Hidden states after the blocks of a stage."""
        before = x
        for i in stage:
            block = self.model["blocks"][i]
            before = before if block.get("parallel") else x
            source = self._norm(block.get("pre_norm"), before)
            source = torch.relu(source) if block.get("pre_relu") else source
            if block["kind"] == "attention":
                out = self._attention(block, source)
            elif block["kind"] == "convolution":
                out = self._convolution(block, source)
            else:
                out = self._ffn(block, source)
            x = x + self._norm(block.get("post_norm"), out) * block.get("residual_scale", 1.0)
            x = self._norm(block.get("out_norm"), x)
            x = x * self.weights.vector(block["out_scale"]) if "out_scale" in block else x
        return x

    def head(self, x: Tensor) -> Tensor:
        """Logits of the last hidden states."""
        head = self.model["head"]
        x = self._norm(self.model.get("final_norm"), x)
        x = self._linear(head["project"], 0, x) if "project" in head else x
        cap: float = head["softcap"]
        y = (self._linear(head["matrix"], 0, x) + self._vector(head.get("bias"))) * float(head.get("scale", 1.0))
        return torch.tanh(y / cap) * cap if cap else y

    # --- pieces ------------------------------------------------------------------------------

    def _vector(self, name: str | None) -> Tensor | float:
        return 0.0 if name is None else self.weights.vector(name)

    def _looked_up(self, name: str, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weights.matrix(name)[0])

    def _linear(self, name: str, part: int, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """x [..., n] times a matrix, as the output of whose part the tap sees it."""
        y = F.linear(x, self.weights.matrix(name)[part] if weight is None else weight)
        if self.tap is not None:
            self.tap(name, part, x, y)
        return y

    def _norm(self, norm: Json | None, x: Tensor) -> Tensor:
        if norm is None:
            return x
        if norm["kind"] == "layer":
            x = x - x.mean(dim=-1, keepdim=True)
        x = x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + norm["eps"])
        return x * (self._vector(norm["weight"]) if "weight" in norm else 1.0) + self._vector(norm.get("bias"))

    def _rope(self, index: int | None, x: Tensor) -> Tensor:  # x [texts, length, heads, d]
        if index is None:
            return x
        rope, length = self.model["ropes"][index], x.shape[1]
        beyond = 0 < rope.get("switch_length", 0) < length
        inv = self.weights.vector(rope["long_inv_freq" if beyond and "long_inv_freq" in rope else "inv_freq"])
        dim = rope["dim"]
        if beyond and rope["kind"] == "dynamic":
            grown = rope["factor"] * length / rope["switch_length"] - (rope["factor"] - 1)
            base = rope["base"] * grown ** (dim / (dim - 2))
            inv = base ** -(torch.arange(0, dim, 2) / dim)
        angle = torch.arange(length)[:, None] * inv
        cos, sin = (f(angle)[:, None, :] * rope["scale"] for f in (torch.cos, torch.sin))
        a, b = x[..., : dim // 2], x[..., dim // 2 : dim]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., dim:]], dim=-1)

    def _heads(self, b: Json, which: str, heads: int, x: Tensor) -> Tensor:
        y = self._linear(b[which], 0, x) + self._vector(b.get(f"{which}_bias"))
        norm = b.get(f"{which}_norm")
        if norm is not None and not norm["per_head"]:
            y = self._norm(norm, y)
        y = y.reshape(*x.shape[:2], heads, b["head_dim"])
        return self._norm(norm, y) if norm is not None and norm["per_head"] else y

    def _attention(self, b: Json, x: Tensor) -> Tensor:
        group = b["heads"] // b["kv_heads"]
        q = self._rope(b.get("rope"), self._heads(b, "q", b["heads"], x))
        k = self._rope(b.get("rope"), self._heads(b, "k", b["kv_heads"], x)).repeat_interleave(group, dim=2)
        v = self._heads(b, "v", b["kv_heads"], x).repeat_interleave(group, dim=2)
        mixed = self._mixed(b, *(y.transpose(1, 2) for y in (q, k, v))).transpose(1, 2).reshape(*x.shape[:2], -1)
        if "gate" in b:
            mixed = mixed * torch.sigmoid(self._linear(b["gate"], 0, x) + self._vector(b.get("gate_bias")))
        mixed = self._norm(b.get("o_norm"), mixed)
        return self._linear(b["o"], 0, mixed) + self._vector(b.get("o_bias"))

    def _mixed(self, b: Json, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # each [texts, heads, length, d]
        n = q.shape[2]
        if not (b["softcap"] or b["window"] or "sinks" in b):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=b["scale"])
        scores = q @ k.transpose(2, 3) * b["scale"]
        if b["softcap"]:
            scores = b["softcap"] * torch.tanh(scores / b["softcap"])
        distance = torch.arange(n)[:, None] - torch.arange(n)[None, :]
        hidden = distance < 0
        if b["window"]:
            hidden |= distance >= b["window"]
        scores = scores.masked_fill(hidden, -math.inf)
        if "sinks" in b:  # a position that takes weight and gives nothing
            sinks = self.weights.vector(b["sinks"])[None, :, None, None].expand(*scores.shape[:3], 1)
            scores = torch.cat([scores, sinks], dim=-1)
        mixed: Tensor = scores.softmax(dim=-1)[..., :n] @ v
        return mixed

    def _convolution(self, b: Json, x: Tensor) -> Tensor:
        def linear(which: str, y: Tensor) -> Tensor:
            return self._linear(b[which], 0, y) + self._vector(b.get(f"{which}_bias"))

        kernel = self.weights.vector(b["kernel"]).reshape(-1, 1, b["taps"])
        u = F.pad((linear("gate_in", x) * linear("value", x)).transpose(1, 2), (b["taps"] - 1, 0))
        mixed = F.conv1d(u, kernel, groups=len(kernel)).transpose(1, 2) + self._vector(b.get("kernel_bias"))
        return linear("o", linear("gate_out", x) * mixed)

    def _neurons(self, b: Json, name: str, x: Tensor, expert: int = 0) -> Tensor:
        def bias(which: str, count: int) -> Tensor | float:
            whole = self._vector(b.get(which))
            return whole[expert * count : (expert + 1) * count] if isinstance(whole, Tensor) else whole

        places = [(b["selector"], 0)] if "selector" in b else []
        places += [(name, part) for part in range(len(self.weights.matrix(name)))]
        *inputs, (_, last) = places
        limit = b.get("limit", math.inf)
        up = self._linear(*inputs[-1], x) + bias("up_bias", b["size"])
        if b["gated"]:
            up = torch.relu(up) if b.get("up_relu") else up
            gate = (self._linear(*inputs[0], x) + bias("gate_bias", b["size"])).clamp(max=limit)
            up = up.clamp(-limit, limit) + b.get("up_add", 0.0)
            up = activate(b["activation"], b["threshold"], gate) * up
        else:
            up = activate(b["activation"], b["threshold"], up)
        up = self._norm(b.get("down_norm"), up)
        down = self.weights.matrix(name)[last].T  # stored by neuron
        return self._linear(name, last, up, down) + bias("down_bias", x.shape[-1])

    def _ffn(self, b: Json, x: Tensor) -> Tensor:
        if b["kind"] == "ffn":
            y = self._neurons(b, b["matrices"][0], x)
            return y * torch.sigmoid(self._linear(b["output_gate"], 0, x)) if "output_gate" in b else y
        flat = x.reshape(-1, x.shape[-1])
        scores = self._linear(b["router"], 0, flat) + self._vector(b.get("router_bias"))
        p = torch.sigmoid(scores) if b.get("scoring") == "sigmoid" else scores.softmax(dim=-1)
        chosen = (p + self._vector(b.get("choice_bias"))).topk(b["top_k"], dim=-1).indices
        weight = p.gather(1, chosen)
        if b["normalize"]:
            weight = weight / (weight.sum(dim=-1, keepdim=True) + b.get("normalize_eps", 0.0))
        weight = weight * b.get("routed_scale", 1.0)
        out = torch.zeros_like(flat)
        for expert, name in enumerate(b["matrices"]):
            token, rank = (chosen == expert).nonzero(as_tuple=True)
            if len(token):
                y = self._neurons(b, name, flat[token], expert) * weight[token, rank, None]
                out = out.index_add(0, token, y)
        return out.reshape(x.shape)
