"""Palettization: indices into a small table of f16 values, one table per group of rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.codecs.base import F16, F32, U8, Codec, Encoded, pad_record, padded, records_from, register
from edgekit.codecs.planes import PLANES, pack, unpack
from edgekit.errors import RecipeError
from edgekit.solvers.kmeans import kmeans_histogram, kmeans_sorted, nearest


@dataclass(frozen=True)
class Palette(Codec):
    """2^bits values per table. `group_size` rows (output channels; neurons in a bundle) share a
    table; 0 means one table for the whole matrix."""

    bits: int = 4
    group_size: int = 32
    name: str = "palette"

    def __post_init__(self) -> None:
        if self.bits not in PLANES:
            raise RecipeError(f"palettes have 1, 2, 3, 4, 6 or 8 bits, not {self.bits}")
        if not 0 <= self.group_size <= 1 << 20:
            raise RecipeError(f"a palette's group size is a number of rows, or 0 for all; not {self.group_size}")

    @property
    def lut_rows(self) -> int:  # type: ignore[override]
        return self.group_size

    @property
    def has_lut(self) -> bool:
        return True

    def tables(self, rows: int) -> int:
        return 1 if self.group_size == 0 else -(-rows // self.group_size)

    def record_bytes(self, cols: int) -> int:
        return pad_record(padded(cols) * self.bits // 8)

    def fit(self, chunks: Iterable[F32]) -> F16 | None:
        if self.group_size != 0:
            return None
        # Tables hold f16 values, so counting the weights by f16 value loses next to nothing.
        counts = np.zeros(1 << 16, dtype=np.int64)
        for chunk in chunks:
            bits = np.clip(chunk, -65504, 65504).astype("<f2").view(np.uint16).reshape(-1)
            counts += np.bincount(bits, minlength=1 << 16)
        values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
        used = np.flatnonzero(counts)
        order = used[np.argsort(values[used], kind="stable")]
        return _table(kmeans_histogram(values[order], counts[order], 1 << self.bits))[None]

    def encode(self, rows: F32, lut: F16 | None = None) -> Encoded:
        n, cols = rows.shape
        step = self.group_size or n
        tables, codes = [], np.zeros((n, padded(cols)), dtype=np.uint8)
        for begin in range(0, n, step):
            group = rows[begin : begin + step]
            if lut is not None:
                table = lut[0]
            else:
                table = _table(kmeans_sorted(np.sort(group, axis=None), 1 << self.bits))
                tables.append(table)
            codes[begin : begin + step, :cols] = nearest(group, table.astype(np.float32))
        records = records_from([pack(codes, self.bits)], self.record_bytes(cols))
        return Encoded(records, lut if lut is not None else np.stack(tables))

    def codes(self, records: U8, cols: int) -> U8:
        """Indices u8 [n, cols] of records."""
        at = padded(cols) * self.bits // 8
        return unpack(np.ascontiguousarray(records[:, :at]), self.bits, padded(cols))[:, :cols]

    def decode(self, records: U8, cols: int, lut: F16 | None = None) -> F32:
        assert lut is not None, "a palette cannot be decoded without its tables"
        return looked_up(self.codes(records, cols), lut, self.group_size or len(records))

    def manifest(self) -> dict[str, Any]:
        return {"codec": self.name, "bits": self.bits}


def looked_up(codes: U8, lut: F16, lut_rows: int) -> F32:
    """Codes [n, cols] through tables [tables, entries], one table for `lut_rows` rows: f32 [n, cols]."""
    table = np.arange(len(codes)) // lut_rows
    out: F32 = lut.astype(np.float32)[table[:, None], codes]
    return out


def _table(centroids: F32) -> F16:
    return np.sort(np.clip(centroids, -65504, 65504).astype("<f2"))


register("palette")(Palette)
