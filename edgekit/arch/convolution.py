"""Convolution blocks of a checkpoint, by its family's description."""

from __future__ import annotations

from edgekit.arch.spec import Convolution, Matrix, Vector
from edgekit.arch.tensors import Tensors


class ConvolutionBuilder(Tensors):
    """Describes the convolution block of a layer."""

    def convolution(self, i: int) -> Convolution:
        c, f, at = self.c, self.f, f"layers.{i}."
        taps, width = c.size("conv_L_cache"), self.hidden
        fused, kernel, o = self._name(f.conv_in, i), self._name(f.conv, i), self._name(f.conv_o, i)
        self._check(kernel + ".weight", (width, 1, taps))
        pre, post, out = self.norm_places(at + "conv_", f.attention_norm, f.attention_post_norm, i)

        def part(name: str, index: int) -> Matrix:
            return self.matrix(at + name, fused, width, width, ((index * width, (index + 1) * width),), 3 * width)

        def bias(name: str, index: int) -> Vector | None:
            ranges = ((index * width, (index + 1) * width),)
            return self.bias(f"{at}{name}_bias", fused, width, ranges, 3 * width, f.conv_bias)

        return Convolution(
            taps,
            part("gate_in", 0),
            part("gate_out", 1),
            part("value", 2),
            self.matrix(at + "o", o, width, width),
            Vector(at + "kernel", width * taps, kernel + ".weight"),
            bias("gate_in", 0),
            bias("gate_out", 1),
            bias("value", 2),
            self.bias(at + "o_bias", o, width, rule=f.conv_bias),
            self.bias(at + "kernel_bias", kernel, width, rule=f.conv_bias),
            pre,
            post,
            out,
            c.flag("norm_relu"),
            c.number("residual_multiplier", 1.0),
        )
