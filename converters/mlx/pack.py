"""Codes as MLX packs them: little-endian streams of bits in 32-bit words (mlx.core.quantize)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F16, U8
from edgekit.codecs.forms import AffineForm
from edgekit.converters.weights import bitstream

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP = 32
MOST_GROUP = 128


def words(codes: U8, bits: int) -> npt.NDArray[np.uint32]:
    """Codes [rows, cols], cols a multiple of 32, to words [rows, cols * bits / 32]."""
    return bitstream(codes, bits).view("<u4")


def padded_groups(w: AffineForm) -> tuple[U8, F16, F16]:
    """Codes with the last group filled up, scales, biases; groups that MLX has none of are cut into halves."""
    group = min(w.group_size, MOST_GROUP)
    codes = np.pad(w.codes, ((0, 0), (0, -w.codes.shape[1] % group)))
    cut, count = w.group_size // group, codes.shape[1] // group
    scale, bias = (np.repeat(a, cut, axis=1)[:, :count] for a in (w.scale, w.bias))
    return codes, np.ascontiguousarray(scale), np.ascontiguousarray(bias)
