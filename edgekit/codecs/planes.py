"""Packing of small codes: blocks of 32, split into planes of 4, 2 and 1 bits (docs/format.md)."""

from __future__ import annotations

import numpy as np

from edgekit.codecs.base import BLOCK, U8

# bits -> the planes that make a code, low bits first
PLANES: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}


def pack(codes: U8, bits: int) -> U8:
    """Codes [rows, padded cols] to bytes [rows, padded cols * bits / 8]."""
    if bits == 8:
        return codes
    rows, cols = codes.shape
    blocks = codes.reshape(rows, cols // BLOCK, BLOCK)
    pieces, shift = [], 0
    for plane in PLANES[bits]:
        part = (blocks >> np.uint8(shift)) & np.uint8((1 << plane) - 1)
        if plane == 1:
            pieces.append(np.packbits(part, axis=2, bitorder="little"))
        else:
            per_byte = 8 // plane
            lanes = part.reshape(rows, -1, per_byte, BLOCK // per_byte)
            packed = lanes[:, :, 0].copy()
            for i in range(1, per_byte):
                packed |= lanes[:, :, i] << np.uint8(i * plane)
            pieces.append(packed)
        shift += plane
    out: U8 = np.concatenate(pieces, axis=2).reshape(rows, -1) if len(pieces) > 1 else pieces[0].reshape(rows, -1)
    return out


def unpack(packed: U8, bits: int, cols: int) -> U8:
    """The inverse of `pack`; `cols` is the padded width."""
    if bits == 8:
        return packed
    rows = len(packed)
    blocks = packed.reshape(rows, cols // BLOCK, BLOCK * bits // 8)
    out = np.zeros((rows, cols // BLOCK, BLOCK), dtype=np.uint8)
    at = shift = 0
    for plane in PLANES[bits]:
        size = BLOCK * plane // 8
        part = blocks[:, :, at : at + size]
        if plane == 1:
            values = np.unpackbits(part, axis=2, bitorder="little")
        else:
            mask = np.uint8((1 << plane) - 1)
            values = np.concatenate([(part >> np.uint8(s)) & mask for s in range(0, 8, plane)], axis=2)
        out |= values << np.uint8(shift)
        at += size
        shift += plane
    return out.reshape(rows, cols)
