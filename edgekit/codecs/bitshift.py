"""The bitshift trellis (after QTIP, arXiv 2406.11235): a row is one circular stream of bits, and the weight of
column j is computed from the `state_bits` bits of the stream that begin at bit j * bits.

Bit i of a stream is bit i % 8 of its byte i / 8. `codes` are the `bits` bits that a column adds to the stream.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]

FACTOR, OFFSET, MASK = 439072549, 1567861309, 0x7F7F7F7F
MEAN = 254  # of the sum of four bytes of 7 bits
DEVIATION = 74.8  # of the values, whole numbers from -254 to 254
UNIT = np.float32(1 / 128)  # a weight is scale * UNIT * value
STATE_BITS = (12, 16)  # the least and the most


def values_of(states: U32) -> F32:
    """What states stand for, f32 of the same shape: four bytes of 7 bits of a product, added up, around 0."""
    product = (states.astype(np.uint64) * FACTOR + OFFSET).astype(np.uint32) & np.uint32(MASK)
    total = sum(((product >> np.uint32(s)) & np.uint32(0x7F)).astype(np.int32) for s in (0, 8, 16, 24))
    return (np.asarray(total) - MEAN).astype(np.float32)


def states_of(codes: U8, bits: int, state_bits: int) -> U32:
    """States u32 [rows, cols] of codes u8 [rows, cols]; the row's end goes on with its beginning."""
    states = np.zeros(codes.shape, np.uint32)
    for i in range(-(-state_bits // bits)):
        states |= np.roll(codes, -i, axis=1).astype(np.uint32) << np.uint32(i * bits)
    return states & np.uint32((1 << state_bits) - 1)


def pack_stream(codes: U8, bits: int) -> U8:
    """Codes u8 [rows, cols] to streams u8 [rows, cols * bits / 8]; cols is a multiple of 8."""
    loose = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little")
    return np.packbits(loose.reshape(len(codes), -1), axis=1, bitorder="little")


def unpack_stream(stream: U8, bits: int, cols: int) -> U8:
    """The inverse of `pack_stream`, u8 [rows, cols]."""
    loose = np.unpackbits(stream, axis=1, count=cols * bits, bitorder="little")
    return np.packbits(loose.reshape(len(stream), cols, bits), axis=2, bitorder="little")[:, :, 0]
