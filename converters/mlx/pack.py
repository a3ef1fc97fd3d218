"""Codes as MLX packs them: little-endian streams of bits in 32-bit words (mlx.core.quantize)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F16, U8
from edgekit.converters.weights import Coded, bitstream

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP = 32


def words(codes: U8, bits: int) -> npt.NDArray[np.uint32]:
    """Codes [rows, cols], cols a multiple of 32, to words [rows, cols * bits / 32]."""
    return bitstream(codes, bits).view("<u4")


def padded_groups(w: Coded) -> tuple[U8, F16, F16]:
    """Codes with the last group filled up, scales, biases."""
    codes = np.pad(w.codes, ((0, 0), (0, -w.codes.shape[1] % w.group_size)))
    return codes, np.ascontiguousarray(w.scale), np.ascontiguousarray(w.bias)
