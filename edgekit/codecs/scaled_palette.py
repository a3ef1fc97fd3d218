"""Palettes with scales: indices into one small table of int8 values, times a scale for each group of columns.

The table's entries are multiples of 1/128, so that integer kernels compute with them exactly; the scale of a group
is one byte on a logarithmic grid. One table serves a whole matrix, as its groups are scaled to the same range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import (
    BLOCK,
    F32,
    U8,
    Arrays,
    ArraySpec,
    Codec,
    pad_record,
    padded,
    records_from,
    register,
    widened,
)  # fmt: skip
from edgekit.codecs.forms import LookupForm
from edgekit.codecs.palette import MOST_ROWS
from edgekit.codecs.planes import PLANES, pack, unpack
from edgekit.errors import RecipeError

ALIGNMENT = 4  # of records and of their codes: at 256 columns 16 bytes would be a tenth
STEPS = 12  # of the scales' grid, per power of two
ONE = 176  # the code of scale 1
SCALES: F32 = np.concatenate([[0.0], np.exp2((np.arange(1, 256, dtype=np.float64) - ONE) / STEPS)]).astype(np.float32)
MOST_COLUMNS = 1 << 20


@dataclass(frozen=True)
class ScaledPalette(Codec):
    """weight = scale[group of columns] * lut[code], scale = SCALES[scale code].

    Arrays: codes u8 [rows, cols]; scale u8 [rows, groups], codes of SCALES; lut f16 [tables, 2^bits], each entry
    k / 128 with a whole k of -127 to 127. `group_size`: columns with one scale, a multiple of 32; a row that is not
    longer has one. `lut_rows`: rows with one table; 0 for all.
    """

    bits: int = 4
    group_size: int = 64
    lut_rows: int = 0
    name: str = "scaled_palette"
    form: str = "lookup"

    def __post_init__(self) -> None:
        if self.bits not in PLANES:
            raise RecipeError(f"palettes have {', '.join(map(str, PLANES))} bits, not {self.bits}")
        if not 0 < self.group_size <= MOST_COLUMNS or self.group_size % BLOCK:
            raise RecipeError(f"a scaled palette's group size is a multiple of {BLOCK} columns, not {self.group_size}")
        if not 0 <= self.lut_rows <= MOST_ROWS:
            raise RecipeError(f"lut_rows is a number of rows, or 0 for all; not {self.lut_rows}")

    @property
    def has_lut(self) -> bool:
        return True

    def groups(self, cols: int) -> int:
        """Groups of a row; the last may be short."""
        return -(-cols // self.group_size)

    def arrays(self, rows: int, cols: int) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("codes", (rows, cols), "u8", self.bits),
            ArraySpec("scale", (rows, self.groups(cols)), "u8", 8),
            ArraySpec("lut", (self.tables(rows), 1 << self.bits), "f16", 16),
        )

    def record_bytes(self, cols: int) -> int:
        return self._codes_at(cols) + pad_record(padded(cols) * self.bits // 8, ALIGNMENT)

    def _codes_at(self, cols: int) -> int:
        return pad_record(self.groups(cols), ALIGNMENT)

    def pack(self, arrays: Arrays, cols: int) -> U8:
        head = widened(arrays["scale"].astype(np.uint8, copy=False), self._codes_at(cols))
        return records_from([head, pack(widened(arrays["codes"], padded(cols)), self.bits)], self.record_bytes(cols))

    def unpack(self, records: U8, cols: int) -> dict[str, npt.NDArray[Any]]:
        at, size = self._codes_at(cols), padded(cols) * self.bits // 8
        codes = unpack(np.ascontiguousarray(records[:, at : at + size]), self.bits, padded(cols))[:, :cols]
        return {"codes": codes, "scale": records[:, : self.groups(cols)]}

    def values(self, arrays: Arrays, cols: int) -> LookupForm:
        codes, lut_rows = arrays["codes"], self.lut_rows or len(arrays["codes"])
        return LookupForm(codes, self.bits, arrays["lut"], lut_rows, SCALES[arrays["scale"]], self.group_size)

    def manifest(self) -> dict[str, Any]:
        return {"codec": self.name, "bits": self.bits, "group_size": self.group_size}


register("scaled_palette")(ScaledPalette)
