"""What a codec is: a way to store the rows of a matrix, and its name in recipes and manifests.

A record is one row as the kernels read it (docs/format.md, "Codecs"): codes in blocks of 32 columns,
then whatever scales the codec has, padded to 16 bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import RecipeError

F32 = npt.NDArray[np.float32]
F16 = npt.NDArray[np.float16]
U8 = npt.NDArray[np.uint8]

BLOCK = 32
RECORD_ALIGNMENT = 16


@dataclass(frozen=True)
class Encoded:
    """Rows in a codec: `records` [rows, record_bytes] and, for palettes, `lut` [tables, entries]."""

    records: U8
    lut: F16 | None = None


class Codec(ABC):
    """A representation of a matrix, row by row.

    Attributes:
        name: "f16", "affine", "palette", ...
        bits: bits per weight, tables and scales not counted.
        lut_rows: rows that share a table; 0 if there are none, or one for the whole matrix.
    """

    name: str
    bits: int
    lut_rows: int = 0

    @property
    def has_lut(self) -> bool:
        """Whether rows are indices into tables."""
        return False

    def tables(self, rows: int) -> int:
        """Number of tables of a matrix with this many rows."""
        return 0

    def fit(self, chunks: Iterable[F32]) -> F16 | None:
        """One table for a whole matrix, from one pass over its rows; None if not needed."""
        return None

    @abstractmethod
    def record_bytes(self, cols: int) -> int:
        """Bytes of one record."""

    @abstractmethod
    def encode(self, rows: F32, lut: F16 | None = None) -> Encoded:
        """Encodes rows [n, cols]; the first must begin a table. `lut`: a table from `fit`."""

    @abstractmethod
    def decode(self, records: U8, cols: int, lut: F16 | None = None) -> F32:
        """The weights [n, cols] of records whose first row begins a table."""

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """The codec's fields in a manifest's part."""


def padded(cols: int) -> int:
    """Columns rounded up to whole blocks."""
    return -(-cols // BLOCK) * BLOCK


def pad_record(size: int) -> int:
    """Bytes of a record with `size` bytes of content."""
    return -(-size // RECORD_ALIGNMENT) * RECORD_ALIGNMENT


def records_from(pieces: list[U8], size: int) -> U8:
    """Joins per-row pieces [n, *] and pads each row to a record of `size` bytes."""
    rows = len(pieces[0])
    out = np.zeros((rows, size), dtype=np.uint8)
    at = 0
    for piece in pieces:
        out[:, at : at + piece.shape[1]] = piece
        at += piece.shape[1]
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
