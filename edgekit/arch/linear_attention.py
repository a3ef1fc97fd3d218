"""Linear attention blocks of a checkpoint (the gated delta rule), by its family's description."""

from __future__ import annotations

from typing import cast

from edgekit.arch.spec import Activation, LinearAttention, Matrix, Norm, Ranges, Vector
from edgekit.arch.tensors import Tensors
from edgekit.errors import UnsupportedModelError


class LinearAttentionBuilder(Tensors):
    """Describes the linear attention block of a layer."""

    def linear_attention(self, i: int) -> LinearAttention:
        c, f, at = self.c, self.f, f"layers.{i}."
        key_heads, value_heads = c.size("linear_num_key_heads"), c.size("linear_num_value_heads")
        key_dim, value_dim = c.size("linear_key_head_dim"), c.size("linear_value_head_dim")
        if value_heads % key_heads:
            raise UnsupportedModelError(f"config.json: {key_heads} key heads do not divide {value_heads} value heads")
        taps, keys, values = c.size("linear_conv_kernel_dim"), key_heads * key_dim, value_heads * value_dim
        if f.linear_qkvz:
            sources = self._fused(i, key_heads, value_heads // key_heads, key_dim, value_dim)
        else:
            sources = self._separate(i, keys, values, value_heads)

        def part(name: str, rows: int) -> Matrix:
            tensor, ranges, whole = sources[name]
            return self.matrix(at + name, tensor, rows, self.hidden, ranges, whole)

        kernel, o, norm = self._name(f.linear_conv, i), self._name(f.linear_o, i), self._name(f.linear_norm, i)
        channels = 2 * keys + values
        self._check(kernel + ".weight", (channels, 1, taps))
        pre, post, out = self.norm_places(at + "attention_", f.attention_norm, f.attention_post_norm, i)
        return LinearAttention(
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            taps,
            cast(Activation, c.activation()),
            part("q", keys),
            part("k", keys),
            part("v", values),
            part("gate", values),
            part("beta", value_heads),
            part("decay", value_heads),
            self.matrix(at + "o", o, self.hidden, values),
            Vector(at + "kernel", channels * taps, kernel + ".weight"),
            self.vector(at + "decay_log", self._name(f.linear_decay_log, i), value_heads),
            self.vector(at + "decay_bias", self._name(f.linear_decay_bias, i), value_heads),
            Norm("rms", c.positive("eps"), self.vector(at + "norm", norm + ".weight", value_dim)),
            pre,
            post,
            out,
            c.flag("norm_relu"),
            c.number("residual_multiplier", 1.0),
        )

    def _separate(self, i: int, keys: int, values: int, heads: int) -> dict[str, tuple[str, Ranges, int]]:
        """Tensor, rows and the tensor's rows of each matrix: q, k and v in one, the others apart (Qwen3.5)."""
        f, whole = self.f, 2 * keys + values
        qkv = self._name(f.linear_qkv, i)
        return {
            "q": (qkv, ((0, keys),), whole),
            "k": (qkv, ((keys, 2 * keys),), whole),
            "v": (qkv, ((2 * keys, whole),), whole),
            "gate": (self._name(f.linear_z, i), (), values),
            "beta": (self._name(f.linear_b, i), (), heads),
            "decay": (self._name(f.linear_a, i), (), heads),
        }

    def _fused(
        self, i: int, heads: int, group: int, key_dim: int, value_dim: int
    ) -> dict[str, tuple[str, Ranges, int]]:
        """The same where each key head has q, k, v and z, and b and a, side by side (Qwen3-Next).

        `group`: value heads of a key head.
        """
        qkvz, ba, found = self._name(self.f.linear_qkvz, i), self._name(self.f.linear_ba, i), {}
        for tensor, sizes in (
            (qkvz, {"q": key_dim, "k": key_dim, "v": group * value_dim, "gate": group * value_dim}),
            (ba, {"beta": group, "decay": group}),
        ):
            stride, begin = sum(sizes.values()), 0
            self._check(tensor + ".weight", (heads * stride, self.hidden))  # before the ranges grow with the heads
            for name, size in sizes.items():
                spans = tuple((h * stride + begin, h * stride + begin + size) for h in range(heads))
                found[name] = (tensor, spans, heads * stride)
                begin += size
        return found
