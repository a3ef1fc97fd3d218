"""Attention blocks of a checkpoint, by its family's description."""

from __future__ import annotations

import math

from edgekit.arch.by_layer import LayerBuilder
from edgekit.arch.spec import Attention, Norm, Ranges
from edgekit.errors import UnsupportedModelError


class AttentionBuilder(LayerBuilder):
    """Describes the attention block of a layer."""

    def attention(self, i: int) -> Attention:
        c, f = self.c, self.f
        heads = c.per_layer("heads", i)
        kv = c.per_layer("kv_heads", i, heads)
        if c.get("head_dim") is None and self.hidden % heads:
            raise UnsupportedModelError(f"config.json: {heads} heads do not divide a hidden size of {self.hidden}")
        d = c.size("head_dim", self.hidden // heads)
        if f.head_sizes_by_layer:
            d, kv = self.head_sizes(i, d, kv)
        if heads % kv:
            raise UnsupportedModelError(f"config.json: {kv} key-value heads do not divide {heads} heads")
        tensors, ranges, whole = self._qkv(i, heads, kv, d)
        at = f"layers.{i}."
        sizes = {"q": heads * d, "k": kv * d, "v": kv * d}
        wholes = dict.fromkeys("qkv", whole)
        parts = {"q": "q", "k": "k", "v": "v"}
        if f.q_gated:  # head by head its queries, then what gates it
            self._check(tensors["q"] + ".weight", (2 * heads * d, self.hidden))
            starts = range(0, 2 * heads * d, 2 * d)
            ranges |= {"q": tuple((s, s + d) for s in starts), "gate": tuple((s + d, s + 2 * d) for s in starts)}
            wholes |= {"q": 2 * heads * d, "gate": 2 * heads * d}
            sizes["gate"], parts["gate"] = sizes["q"], "q"
        kind = self.layer_kind(i)
        keyed = f.head_sizes_by_layer and kind == "full_attention" and c.flag("attention_k_eq_v")  # values are the keys
        source = self.kv_source(i) if f.shared_kv else None
        for n in "kv" if source is not None else "v" if keyed else "":
            del parts[n]
        m = {n: self.matrix(at + n, tensors[p], sizes[n], self.hidden, ranges[n], wholes[n]) for n, p in parts.items()}
        b = {
            n: self.bias(f"{at}{n}_bias", tensors[p], sizes[n], ranges[n], wholes[n], f.qkv_bias)
            for n, p in parts.items()
        }
        o = self._name(f.o, i)
        per_head = f.qk_norm_per_head
        pre, post, out = self.norm_places(at + "attention_", f.attention_norm, f.attention_post_norm, i)
        return Attention(
            heads,
            kv,
            d,
            self._scale(d, i),
            m["q"],
            m.get("k"),
            m.get("k") if keyed else m.get("v"),
            self.matrix(at + "o", o, self.hidden, heads * d),
            b["q"],
            b.get("k"),
            b.get("k") if keyed else b.get("v"),
            self.bias(at + "o_bias", o, self.hidden, rule=f.o_bias),
            self.norm(at + "q_norm", f.q_norm, i, d if per_head else heads * d, per_head),
            self.norm(at + "k_norm", f.k_norm, i, d if per_head else kv * d, per_head) if source is None else None,
            self.rope(kind, d) if self.rotates(i, kind) else None,
            self.window(kind),
            self._softcap("attn_logit_softcapping"),
            pre,
            post,
            out,
            c.flag("norm_relu"),
            c.number("residual_multiplier", 1.0),
            self.vector(at + "sinks", self._name(f.sinks, i), heads) if f.sinks else None,
            m.get("gate"),
            b.get("gate"),
            Norm("rms", c.positive("eps"), None, per_head=True) if f.v_unit and source is None else None,
            None if source is None else self.block_of[source],
            causal=f.encoder is None,
            o_norm=self.norm(at + "o_norm", f.o_norm, i, heads * d),
        )

    def window(self, kind: str) -> int:
        """Tokens that a token of such a layer sees, itself among them; 0 for all."""
        return self.c.size("window") if kind == "sliding_attention" else 0

    def _softcap(self, key: str) -> float:
        return 0.0 if self.c.get(key) is None else self.c.positive(key)

    def _qkv(self, i: int, heads: int, kv: int, d: int) -> tuple[dict[str, str], dict[str, Ranges], int]:
        f = self.f
        if not f.qkv:
            spans: dict[str, Ranges] = dict.fromkeys("qkv", ())
            if f.rope_interleaved:
                spans |= {"q": _uninterleaved(heads, d), "k": _uninterleaved(kv, d)}
            return {"q": self._name(f.q, i), "k": self._name(f.k, i), "v": self._name(f.v, i)}, spans, 0
        fused = dict.fromkeys("qkv", self._name(f.qkv, i))
        if f.qkv_layout == "per_head":
            spans = {
                n: tuple(((3 * h + j) * d, (3 * h + j + 1) * d) for h in range(heads)) for j, n in enumerate("qkv")
            }
            return fused, spans, 3 * heads * d
        q, k = heads * d, kv * d
        return fused, {"q": ((0, q),), "k": ((q, q + k),), "v": ((q + k, q + 2 * k),)}, q + 2 * k

    def _scale(self, head_dim: int, layer: int) -> float:
        c, f = self.c, self.f
        by_layer = layer + 1 if c.flag("scale_attn_by_inverse_layer_idx") else 1
        if f.scale == "one" or ("scale_attn_weights" in f.reads and not c.flag("scale_attn_weights")):
            return 1.0 / by_layer
        if f.scale == "query_pre_attn_scalar":
            return 1.0 / math.sqrt(c.positive("query_pre_attn_scalar"))
        if f.scale == "attention_multiplier":
            return c.number("attention_multiplier")
        return 1.0 / math.sqrt(head_dim) / by_layer


def _uninterleaved(heads: int, head_dim: int) -> Ranges:
    """Rows of a projection in our order: of each head the even ones, then the odd ones, which they are rotated with."""
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
    return tuple((h * head_dim + r, h * head_dim + r + 1) for h in range(heads) for r in order)
