"""Palettization: indices into a small table of f16 values, one table per group of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import U8, Arrays, ArraySpec, Codec, pad_record, padded, records_from, register, widened
from edgekit.codecs.forms import LookupForm
from edgekit.codecs.planes import PLANES, pack, unpack
from edgekit.errors import RecipeError

MOST_ROWS = 1 << 20


@dataclass(frozen=True)
class Palette(Codec):
    """2^bits values per table. `lut_rows` rows (output channels; neurons in a bundle) share a table; 0 means one
    table for the whole matrix. Arrays: codes u8 [rows, cols], lut f16 [tables, 2^bits]."""

    bits: int = 4
    lut_rows: int = 32
    name: str = "palette"
    form: str = "lookup"

    def __post_init__(self) -> None:
        if self.bits not in PLANES:
            raise RecipeError(f"palettes have {', '.join(map(str, PLANES))} bits, not {self.bits}")
        if not 0 <= self.lut_rows <= MOST_ROWS:
            raise RecipeError(f"a palette's group size is a number of rows, or 0 for all; not {self.lut_rows}")

    @property
    def has_lut(self) -> bool:
        return True

    def arrays(self, rows: int, cols: int) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("codes", (rows, cols), "u8", self.bits),
            ArraySpec("lut", (self.tables(rows), 1 << self.bits), "f16", 16),
        )

    def record_bytes(self, cols: int) -> int:
        return pad_record(padded(cols) * self.bits // 8)

    def pack(self, arrays: Arrays, cols: int) -> U8:
        return records_from([pack(widened(arrays["codes"], padded(cols)), self.bits)], self.record_bytes(cols))

    def unpack(self, records: U8, cols: int) -> dict[str, npt.NDArray[Any]]:
        at = padded(cols) * self.bits // 8
        return {"codes": unpack(np.ascontiguousarray(records[:, :at]), self.bits, padded(cols))[:, :cols]}

    def values(self, arrays: Arrays, cols: int) -> LookupForm:
        codes = arrays["codes"]
        return LookupForm(codes, self.bits, arrays["lut"], self.lut_rows or len(codes))

    def manifest(self) -> dict[str, Any]:
        return {"codec": self.name, "bits": self.bits}


def _palette(bits: int = 4, group_size: int | None = None, lut_rows: int = 32) -> Palette:
    """Recipes call the rows of a table a group."""
    return Palette(bits, lut_rows if group_size is None else group_size)


register("palette")(_palette)
