"""The kinds of tensors in GGUF files, and the f32 values that their blocks stand for.

Each decoder takes blocks u8 [n, bytes] and gives f32 [n, values], computed in the order of gguf's own `quants.py`, so
that the values are equal bit for bit. Layouts: ggml-common.h and ggml-quants.c of https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Decoder = Callable[[U8], F32]

CURVE = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_HALVES = (0, 1, 2, 3, 4, 6, 8, 12)  # twice the values of FP4 (e2m1)
FP4 = np.array([*_HALVES, *(-v for v in _HALVES)], np.float32)


@dataclass(frozen=True)
class Kind:
    """A kind of tensor: `values` of a row share a block of `bytes`."""

    name: str
    values: int
    bytes: int
    decode: Decoder

    def rows(self, raw: U8) -> F32:
        """f32 [n, cols] of stored rows u8 [n, row_bytes]."""
        out: F32 = self.decode(np.ascontiguousarray(raw).reshape(-1, self.bytes)).reshape(len(raw), -1)
        return out


def half(blocks: U8, at: int) -> F32:
    """The f16 at byte `at` of each block, f32 [n, 1]."""
    wide: F32 = np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)
    return wide


def nibbles(packed: U8) -> U8:
    """Codes [n, 2 * m] of bytes [n, m]: the low halves of all of them, then the high ones."""
    out: U8 = np.concatenate([packed & 15, packed >> 4], axis=1)
    return out


def bits(packed: U8) -> U8:
    """Bits [n, 8 * m] of bytes [n, m], the lowest of each first."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def codes_5(blocks: U8, at: int) -> U8:
    """Codes of five bits [n, 32]: four bytes of high bits at `at`, then sixteen of nibbles."""
    high: U8 = bits(blocks[:, at : at + 4]) << np.uint8(4)
    return nibbles(blocks[:, at + 4 : at + 20]) | high


def k_nibbles(packed: U8) -> U8:
    """Codes [n, 8, 32] of the bytes [n, 128] of a Q4_K or Q5_K block."""
    by_chunk = packed.reshape(len(packed), 4, 1, 32)
    out: U8 = np.concatenate([by_chunk & 15, by_chunk >> 4], axis=2).reshape(len(packed), 8, 32)
    return out


def k_scales(packed: U8) -> tuple[U8, U8]:
    """Scales and minima [n, 8], six bits each, of the twelve bytes of a Q4_K or Q5_K block."""
    low, mins, both = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (both & 15) | ((low >> 2) & 48)], axis=1)
    return scales, np.concatenate([mins & 63, (both >> 4) | ((mins >> 2) & 48)], axis=1)


def k_high_bits(packed: U8) -> U8:
    """The fifth bits [n, 8, 32] of a Q5_K block."""
    return np.ascontiguousarray(bits(packed).reshape(len(packed), 32, 8).transpose(0, 2, 1))


def _shifted(packed: U8, shifts: tuple[int, ...], rows: int) -> U8:
    """Bytes [n, rows * 32] shifted by each of `shifts`: [n, rows, shifts, 32]."""
    by = np.array(shifts, np.uint8).reshape(1, 1, -1, 1)
    out: U8 = packed.reshape(len(packed), rows, 1, -1) >> by
    return out


def _f32(b: U8) -> F32:
    return b.view("<f4")


def _f16(b: U8) -> F32:
    return b.view("<f2").astype(np.float32)


def _bf16(b: U8) -> F32:
    wide: F32 = (b.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return wide


def _q4_0(b: U8) -> F32:
    return half(b, 0) * (nibbles(b[:, 2:]).astype(np.float32) - np.float32(8))


def _q4_1(b: U8) -> F32:
    return half(b, 0) * nibbles(b[:, 4:]).astype(np.float32) + half(b, 2)


def _q5_0(b: U8) -> F32:
    return half(b, 0) * (codes_5(b, 2).astype(np.float32) - np.float32(16))


def _q5_1(b: U8) -> F32:
    return half(b, 0) * codes_5(b, 4).astype(np.float32) + half(b, 2)


def _q8_0(b: U8) -> F32:
    return half(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _q2_k(b: U8) -> F32:
    n = len(b)
    scale = (half(b, 80) * (b[:, :16] & 15).astype(np.float32)).reshape(n, 16, 1)
    least = (half(b, 82) * (b[:, :16] >> 4).astype(np.float32)).reshape(n, 16, 1)
    codes = (_shifted(b[:, 16:80], (0, 2, 4, 6), 2) & 3).reshape(n, 16, 16).astype(np.float32)
    return scale * codes - least


def _q3_k(b: U8) -> F32:
    n = len(b)
    low = nibbles(b[:, 96:104])
    high = _shifted(b[:, 104:108], (0, 2, 4, 6), 1).reshape(n, 16) & 3
    six = (low | (high << 4)).astype(np.int8) - np.int8(32)
    scale = (half(b, 108) * six.astype(np.float32)).reshape(n, 16, 1)
    codes = (_shifted(b[:, 32:96], (0, 2, 4, 6), 2) & 3).reshape(n, 16, 16).astype(np.int8)
    clear = (_shifted(b[:, :32], tuple(range(8)), 1) & 1 ^ 1).reshape(n, 16, 16).astype(np.int8)
    return scale * (codes - (clear << 2)).astype(np.float32)


def k_parts(b: U8) -> tuple[F32, F32]:
    """Scales and minima f32 [n, 8, 1] of the groups of a Q4_K or Q5_K block."""
    scales, mins = k_scales(b[:, 4:16])
    scale = (half(b, 0) * scales.astype(np.float32)).reshape(len(b), 8, 1)
    return scale, (half(b, 2) * mins.astype(np.float32)).reshape(len(b), 8, 1)


def _q4_k(b: U8) -> F32:
    scale, least = k_parts(b)
    return scale * k_nibbles(b[:, 16:]).astype(np.float32) - least


def _q5_k(b: U8) -> F32:
    scale, least = k_parts(b)
    return scale * (k_nibbles(b[:, 48:]) | (k_high_bits(b[:, 16:48]) << 4)).astype(np.float32) - least


def _q6_k(b: U8) -> F32:
    n = len(b)
    scale = (half(b, 208) * b[:, 192:208].view(np.int8).astype(np.float32)).reshape(n, 16, 1)
    low = b[:, :128].reshape(n, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1) & 15
    high = _shifted(b[:, 128:192], (0, 2, 4, 6), 2) & 3
    codes = (low.reshape(n, 8, 32) | (high.reshape(n, 8, 32) << 4)).astype(np.int8) - np.int8(32)
    out: F32 = scale * codes.reshape(n, 16, 16).astype(np.float32)
    return out


def _iq4_nl(b: U8) -> F32:
    return half(b, 0) * CURVE[nibbles(b[:, 2:])]


def _iq4_xs(b: U8) -> F32:
    n = len(b)
    high = np.ascontiguousarray(b[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(n, 8)
    six = (low | ((high & 3).astype(np.uint8) << 4)).astype(np.int8) - np.int8(32)
    scale = (half(b, 0) * six.astype(np.float32)).reshape(n, 8, 1)
    codes = nibbles(np.ascontiguousarray(b[:, 8:]).reshape(n * 8, 16)).reshape(n, 8, 32)
    out: F32 = scale * CURVE[codes]
    return out


def fp4_scales(exponents: U8) -> F32:
    """Half of 2^(e - 127) for exponents e, exactly, also where that is below f32's normal numbers."""
    wide = exponents.astype(np.uint32)
    small = np.uint32(0x00200000) << np.minimum(wide, np.uint32(1))
    out: F32 = np.where(wide < 2, small, (np.maximum(wide, np.uint32(1)) - 1) << np.uint32(23)).view(np.float32)
    return out


def _mxfp4(b: U8) -> F32:
    return fp4_scales(b[:, :1]) * FP4[nibbles(b[:, 1:])]


def _digits(packed: U8, count: int) -> U8:
    """The first `count` digits to base 3 of bytes [n, m], as fractions of 256: [n, count * m], first digits first."""
    powers = np.array([1, 3, 9, 27, 81][:count], np.uint8).reshape(1, -1, 1)
    shifted = packed[:, None, :] * powers  # what is beyond a byte was digits before
    out: U8 = (shifted.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(packed), -1)
    return out


def tq1_codes(b: U8) -> U8:
    """Codes 0, 1 and 2 [n, 256] of TQ1_0 blocks: five to a byte, the last sixteen four to a byte."""
    return np.concatenate([_digits(b[:, :32], 5), _digits(b[:, 32:48], 5), _digits(b[:, 48:52], 4)], axis=1)


def tq2_codes(b: U8) -> U8:
    """Codes 0 to 3 [n, 256] of TQ2_0 blocks."""
    out: U8 = (_shifted(b[:, :64], (0, 2, 4, 6), 2) & np.uint8(3)).reshape(len(b), 256)
    return out


def _tq1_0(b: U8) -> F32:
    return half(b, 52) * (tq1_codes(b).astype(np.float32) - np.float32(1))


def _tq2_0(b: U8) -> F32:
    return half(b, 64) * (tq2_codes(b).astype(np.float32) - np.float32(1))


# By the number that a file has for it.
KINDS: dict[int, Kind] = {
    0: Kind("F32", 1, 4, _f32),
    1: Kind("F16", 1, 2, _f16),
    2: Kind("Q4_0", 32, 18, _q4_0),
    3: Kind("Q4_1", 32, 20, _q4_1),
    6: Kind("Q5_0", 32, 22, _q5_0),
    7: Kind("Q5_1", 32, 24, _q5_1),
    8: Kind("Q8_0", 32, 34, _q8_0),
    10: Kind("Q2_K", 256, 84, _q2_k),
    11: Kind("Q3_K", 256, 110, _q3_k),
    12: Kind("Q4_K", 256, 144, _q4_k),
    13: Kind("Q5_K", 256, 176, _q5_k),
    14: Kind("Q6_K", 256, 210, _q6_k),
    20: Kind("IQ4_NL", 32, 18, _iq4_nl),
    23: Kind("IQ4_XS", 256, 136, _iq4_xs),
    30: Kind("BF16", 1, 2, _bf16),
    34: Kind("TQ1_0", 256, 54, _tq1_0),
    35: Kind("TQ2_0", 256, 66, _tq2_0),
    39: Kind("MXFP4", 32, 17, _mxfp4),
}
