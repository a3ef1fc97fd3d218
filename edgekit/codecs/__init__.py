"""Codecs by name: f32, f16, bf16, affine, palette. A new one is a new file and a line here."""

from edgekit.codecs import affine, palette, plain  # noqa: F401  (importing registers them)
from edgekit.codecs.base import BLOCK, Codec, Encoded, make_codec

__all__ = ["BLOCK", "Codec", "Encoded", "make_codec"]
