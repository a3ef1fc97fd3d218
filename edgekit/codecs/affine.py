"""Affine quantization: code * scale + bias, with a scale for each group of columns of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.codecs.base import F16, F32, U8, Codec, Encoded, pad_record, padded, records_from, register
from edgekit.codecs.planes import pack, unpack
from edgekit.errors import RecipeError
from edgekit.solvers.round import asymmetric_scales, symmetric_scales


@dataclass(frozen=True)
class Affine(Codec):
    """4 or 8 bits in groups of 32, 64 or 128 columns; scales (and biases) are f16.

    Symmetric: weight = scale * (code - 2^(bits-1)). Otherwise weight = scale * code + bias.
    """

    bits: int = 4
    group_size: int = 32
    symmetric: bool = True
    name: str = "affine"

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise RecipeError(f"affine has 4 or 8 bits, not {self.bits}")
        if self.group_size not in (32, 64, 128):
            raise RecipeError(f"affine groups have 32, 64 or 128 columns, not {self.group_size}")

    def _groups(self, cols: int) -> int:
        return -(-cols // self.group_size)

    def record_bytes(self, cols: int) -> int:
        return self._codes_at(cols) + pad_record(padded(cols) * self.bits // 8)

    def _codes_at(self, cols: int) -> int:
        """Offset of the codes: they follow the scales, so that kernels read a record front to back."""
        return pad_record(self._groups(cols) * (2 if self.symmetric else 4))

    def encode(self, rows: F32, lut: F16 | None = None) -> Encoded:
        n, cols = rows.shape
        groups = self._groups(cols)
        wide = np.zeros((n, groups * self.group_size), dtype=np.float32)
        wide[:, :cols] = rows
        wide[:, cols:] = rows[:, -1:]  # a short last group: repeat a value, so that no range widens
        grouped = wide.reshape(n, groups, self.group_size)
        if self.symmetric:
            scale = symmetric_scales(grouped, self.bits)
            bias = scale.astype(np.float32) * -float(1 << (self.bits - 1))
        else:
            scale, bias16 = asymmetric_scales(grouped, self.bits)
            bias = bias16.astype(np.float32)
        step = scale.astype(np.float32)
        inverse = np.divide(1.0, step, out=np.zeros_like(step), where=step != 0)
        top = np.float32((1 << self.bits) - 1)
        codes = np.clip(np.rint((grouped - bias[..., None]) * inverse[..., None]), 0, top)
        if self.symmetric:
            codes[step == 0] = 1 << (self.bits - 1)
        flat = codes.astype(np.uint8).reshape(n, -1)[:, : padded(cols)]
        head = np.zeros((n, self._codes_at(cols)), dtype=np.uint8)
        head[:, : 2 * groups] = scale.view(np.uint8)
        if not self.symmetric:
            head[:, 2 * groups : 4 * groups] = bias16.view(np.uint8)
        pieces = [head, pack(np.ascontiguousarray(flat), self.bits)]
        return Encoded(records_from(pieces, self.record_bytes(cols)))

    def codes(self, records: U8, cols: int) -> tuple[U8, F16, F16]:
        """Codes u8 [n, cols], and the scale and the bias of each group, f16 [n, groups], of records."""
        groups = self._groups(cols)
        at, size = self._codes_at(cols), padded(cols) * self.bits // 8
        codes = unpack(np.ascontiguousarray(records[:, at : at + size]), self.bits, padded(cols))[:, :cols]

        def halves(begin: int) -> F16:
            raw = np.ascontiguousarray(records[:, begin : begin + 2 * groups])
            return raw.view("<f2")

        scale = halves(0)
        bias = scale * np.float16(-(1 << (self.bits - 1))) if self.symmetric else halves(2 * groups)
        return codes, scale, bias

    def decode(self, records: U8, cols: int, lut: F16 | None = None) -> F32:
        codes, scale16, bias16 = self.codes(records, cols)
        return self.values(codes, scale16, bias16)

    def values(self, codes: U8, scale16: F16, bias16: F16) -> F32:
        """What `codes` returned, as numbers f32 [n, cols]."""
        scale = scale16.astype(np.float32)
        bias = scale * -float(1 << (self.bits - 1)) if self.symmetric else bias16.astype(np.float32)
        group = np.arange(codes.shape[1]) // self.group_size
        out = codes.astype(np.float32) * scale[:, group] + bias[:, group]
        return out.astype(np.float32)

    def manifest(self) -> dict[str, Any]:
        return {
            "codec": self.name,
            "bits": self.bits,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
        }


register("affine")(Affine)
