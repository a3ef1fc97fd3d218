"""Codecs by name: f32, f16, bf16, affine, palette, scaled_palette, trellis. A new one is a new file and a line here."""

from edgekit.codecs import affine, palette, plain, scaled_palette, trellis  # noqa: F401  (importing registers them)
from edgekit.codecs.base import BLOCK, Arrays, Codec, codec_of, make_codec

__all__ = ["BLOCK", "Arrays", "Codec", "codec_of", "make_codec"]
