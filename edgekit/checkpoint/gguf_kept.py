"""Blocks of GGUF files as the arrays of our codecs: codes as they are, so that nothing is quantized twice.

Equal bit for bit: Q4_0, Q5_0 and Q8_0 (affine, symmetric: the bias -2^(bits-1) * scale is exact), TQ1_0 and TQ2_0
(affine of 2 bits, symmetric), Q4_1 and Q5_1
(affine, with the file's own f16 scales and biases), MXFP4 (scaled_palette: its scales are powers of two, which the grid
of scale codes has). Q4_K and Q5_K keep their codes, but the product of their two scales is rounded to f16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.gguf_types import (
    FP4,
    U8,
    codes_5,
    k_high_bits,
    k_nibbles,
    k_parts,
    nibbles,
    tq1_codes,
    tq2_codes,
)
from edgekit.codecs import Codec, make_codec
from edgekit.codecs.scaled_palette import ONE, SCALES, STEPS
from edgekit.errors import ConvertError

Arrays = dict[str, npt.NDArray[Any]]
LARGEST = 65504.0  # of f16
FP4_STEP = 1 / 16  # of FP4's doubled values, so that the largest, 12, lies below 1
FP4_TABLE = (FP4 * np.float32(FP4_STEP)).astype("<f2").reshape(1, 16)


@dataclass(frozen=True)
class Kept:
    """How a kind of blocks becomes arrays of `codec`.

    Attributes:
        codec: what holds them.
        exact: the weights stay equal.
        arrays: of blocks u8 [n, bytes]: codes [n, values], scale [n, groups] and so on.
        shared: arrays that all rows share.
    """

    codec: Codec
    exact: bool
    arrays: Callable[[U8], Arrays]
    shared: Arrays

    def rows(self, blocks: U8, rows: int) -> Arrays:
        """The arrays of blocks u8 [n, bytes] that are so many rows.

        Raises:
            ConvertError: a scale is beyond what the codec holds.
        """
        made = self.arrays(np.ascontiguousarray(blocks))
        return {name: np.ascontiguousarray(values).reshape(rows, -1) for name, values in made.items()}


def _halves(blocks: U8, at: int) -> npt.NDArray[np.float16]:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")


def _checked(scale: npt.NDArray[np.float16], bits: int) -> npt.NDArray[np.float16]:
    """Scales of symmetric codes, whose bias is an f16 too.

    Raises:
        ConvertError: one is too large, or no number.
    """
    if not (np.abs(scale.astype(np.float32)) * (1 << (bits - 1)) <= LARGEST).all():
        raise ConvertError("a scale of the file is too large to be kept; name a recipe, as --recipe q8")
    return scale


def _symmetric(bits: int, codes: Callable[[U8], U8]) -> Kept:
    def arrays(b: U8) -> Arrays:
        return {"codes": codes(b), "scale": _checked(_halves(b, 0), bits)}

    return Kept(make_codec("affine", bits, group_size=32), True, arrays, {})


def _asymmetric(bits: int, codes: Callable[[U8], U8]) -> Kept:
    codec = make_codec("affine", bits, group_size=32, symmetric=False)
    return Kept(codec, True, lambda b: {"codes": codes(b), "scale": _halves(b, 0), "bias": _halves(b, 2)}, {})


def _k(bits: int, codes: Callable[[U8], U8]) -> Kept:
    def arrays(b: U8) -> Arrays:
        scale, least = k_parts(b)
        pair = {"scale": scale, "bias": -least}
        return {"codes": codes(b)} | {k: np.clip(v, -LARGEST, LARGEST).astype("<f2") for k, v in pair.items()}

    return Kept(make_codec("affine", bits, group_size=32, symmetric=False), False, arrays, {})


def _ternary(codes: Callable[[U8], U8], at: int) -> Kept:
    """Blocks of codes c, for scale * (c - 1): the codec has it as -scale * ((3 - c) - 2), with room for c = 3 too."""

    def arrays(b: U8) -> Arrays:
        return {"codes": np.uint8(3) - codes(b), "scale": -_checked(_halves(b, at), 2)}

    return Kept(make_codec("affine", 2, group_size=256), True, arrays, {})


def _q8_codes(b: U8) -> U8:
    return b[:, 2:] ^ np.uint8(128)  # two's complement, with zero moved to 128


def fp4_arrays(exponents: U8, codes: U8) -> Arrays:
    """Arrays of groups of FP4 codes u8 [n, 32] with exponents u8 [n, 1] of a scale, 2^(e - 127).

    Raises:
        ConvertError: a scale beyond those that scaled_palette has exactly.
    """
    # weight = 2^(e - 128) * doubled value = SCALES[code] * (doubled value / 16)
    wanted = ONE + STEPS * (exponents.astype(np.int32) - 128 + 4)
    empty = (codes & 7 == 0).all(axis=1, keepdims=True)
    if not (empty | ((wanted > 0) & (wanted < len(SCALES)))).all():
        raise ConvertError("a scale of the file is beyond those that can be kept; name a recipe, as --recipe q8")
    return {"codes": codes, "scale": np.where(empty, 0, wanted).astype(np.uint8)}


MXFP4 = Kept(
    make_codec("scaled_palette", 4, group_size=32),
    True,
    lambda b: fp4_arrays(b[:, :1], nibbles(b[:, 1:])),
    {"lut": FP4_TABLE},
)

# By kind.
KEPT: dict[str, Kept] = {
    "Q4_0": _symmetric(4, lambda b: nibbles(b[:, 2:])),
    "Q5_0": _symmetric(5, lambda b: codes_5(b, 2)),
    "Q8_0": _symmetric(8, _q8_codes),
    "Q4_1": _asymmetric(4, lambda b: nibbles(b[:, 4:])),
    "Q5_1": _asymmetric(5, lambda b: codes_5(b, 4)),
    "Q4_K": _k(4, lambda b: k_nibbles(b[:, 16:])),
    "Q5_K": _k(5, lambda b: k_nibbles(b[:, 48:]) | (k_high_bits(b[:, 16:48]) << np.uint8(4))),
    "TQ1_0": _ternary(tq1_codes, 52),
    "TQ2_0": _ternary(tq2_codes, 64),
    "MXFP4": MXFP4,
}
