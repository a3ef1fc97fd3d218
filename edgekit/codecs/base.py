"""What a codec is: a representation of a matrix. It declares its named arrays, packs them into records and
unpacks them; it chooses nothing. Solvers choose (edgekit/solvers).

A record is one row as the kernels read it (docs/format.md, "Codecs"): scales if the codec has any, then
codes in blocks of 32 columns. Tables that rows share are kept apart, as `lut`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs.forms import Form
from edgekit.errors import RecipeError

F32 = npt.NDArray[np.float32]
F16 = npt.NDArray[np.float16]
U8 = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]

BLOCK = 32
RECORD_ALIGNMENT = 16


@dataclass(frozen=True)
class ArraySpec:
    """One array of a codec: its shape for a matrix, and the bits that an entry takes in the bundle."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int

    @property
    def coded_bits(self) -> int:
        """Bits of the whole array."""
        return math.prod(self.shape) * self.bits


class Codec(ABC):
    """A representation of a matrix, row by row.

    Attributes:
        name: "f16", "affine", "palette", ...
        bits: bits per weight, tables and scales not counted.
        form: what its values are to a converter: "dense", "affine", "lookup", or "computed" (numbers that no
            other format has codes for).
        lut_rows: rows that share a table; 0 if there are none, or one for the whole matrix.
    """

    name: str
    bits: int
    form: str
    lut_rows: int = 0

    @property
    def has_lut(self) -> bool:
        """Whether rows are indices into tables."""
        return False

    def tables(self, rows: int) -> int:
        """Number of tables of a matrix with this many rows."""
        if not self.has_lut:
            return 0
        return 1 if self.lut_rows == 0 else -(-rows // self.lut_rows)

    @abstractmethod
    def arrays(self, rows: int, cols: int) -> tuple[ArraySpec, ...]:
        """The arrays of a matrix [rows, cols]: per weight, group of columns, row or table. Tables are "lut"."""

    @abstractmethod
    def record_bytes(self, cols: int) -> int:
        """Bytes of one record."""

    @abstractmethod
    def pack(self, arrays: Arrays, cols: int) -> U8:
        """Records [rows, record_bytes] of the arrays of some rows; `lut` is not needed."""

    @abstractmethod
    def unpack(self, records: U8, cols: int) -> dict[str, npt.NDArray[Any]]:
        """The inverse of `pack`."""

    @abstractmethod
    def values(self, arrays: Arrays, cols: int) -> Form:
        """What the arrays of rows, and `lut` if there is one, stand for."""

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """The codec's fields in a manifest's part."""

    def decode(self, records: U8, cols: int, lut: F16 | None = None) -> F32:
        """The weights f32 [n, cols] of records whose first row begins a table."""
        arrays = self.unpack(records, cols)
        if lut is not None:
            arrays["lut"] = lut
        return self.values(arrays, cols).dense()

    def coded_bits(self, rows: int, cols: int) -> int:
        """Bits of codes, scales and tables of a matrix; padding is not counted."""
        return sum(a.coded_bits for a in self.arrays(rows, cols))


def padded(cols: int) -> int:
    """Columns rounded up to whole blocks."""
    return -(-cols // BLOCK) * BLOCK


def pad_record(size: int, alignment: int = RECORD_ALIGNMENT) -> int:
    """Bytes of a record with `size` bytes of content."""
    return -(-size // alignment) * alignment


def records_from(pieces: list[U8], size: int) -> U8:
    """Joins per-row pieces [n, *] and pads each row to a record of `size` bytes."""
    rows = len(pieces[0])
    out = np.zeros((rows, size), dtype=np.uint8)
    at = 0
    for piece in pieces:
        out[:, at : at + piece.shape[1]] = piece
        at += piece.shape[1]
    return out


def widened(values: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """Rows [n, cols] filled up with zeros to [n, width]."""
    if values.shape[1] == width:
        return np.ascontiguousarray(values)
    out = np.zeros((len(values), width), dtype=values.dtype)
    out[:, : values.shape[1]] = values
    return out


Maker = Callable[..., Codec]
_MAKERS: dict[str, Maker] = {}


def register(name: str) -> Callable[[Maker], Maker]:
    """Makes a codec known by name; refuses a second one of the same name."""

    def add(maker: Maker) -> Maker:
        if name in _MAKERS:
            raise ValueError(f"two codecs are named '{name}'")
        _MAKERS[name] = maker
        return maker

    return add


def make_codec(method: str, bits: int | None = None, **options: Any) -> Codec:
    """A codec by name.

    Raises:
        RecipeError: unknown name, or an option that it does not have.
    """
    if method not in _MAKERS:
        raise RecipeError(f"codec '{method}' is unknown; known: {', '.join(sorted(_MAKERS))}")
    given = {k: v for k, v in {"bits": bits, **options}.items() if v is not None}
    try:
        return _MAKERS[method](**given)
    except TypeError as error:
        raise RecipeError(f"codec '{method}' does not take {sorted(given)}") from error


_OPTIONS = ("bits", "group_size", "symmetric", "lut_rows", "state_bits")


def codec_of(part: Mapping[str, Any]) -> Codec:
    """The codec of a manifest's part, by the options that it stores."""
    return make_codec(part["codec"], **{k: part[k] for k in _OPTIONS if k in part})
