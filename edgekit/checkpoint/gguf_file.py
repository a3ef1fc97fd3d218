"""The header of a GGUF file: metadata and the table of tensors, bounds-checked and never trusted.

Every count and length is compared with what is left of the file before anything of that size is made. The format is
described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgekit.checkpoint.gguf_types import KINDS, Kind
from edgekit.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER_LIMIT = 256 << 20  # bytes of metadata and table; the largest vocabularies take a tenth
MOST_ENTRIES = 1 << 22  # of one array, of the metadata and of the table
LONGEST_KEY = 1 << 16
LONGEST_NAME = 200
MOST_AXES = 4
LARGEST_AXIS = 1 << 40
DEFAULT_ALIGNMENT = 32
LARGEST_ALIGNMENT = 1 << 20

STRING, ARRAY = 8, 9
NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True)
class Entry:
    """One tensor of the table: its kind, its shape with rows first, and the offset of its first byte in the file."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a file.

    Attributes:
        path: the file.
        metadata: values by key; arrays as lists.
        tensors: the table by name.
        digest: SHA-256 of the header, in hexadecimal.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Entry]
    digest: str


class _Reader:
    """Reads a header front to back."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.at = 0
        self.digest = hashlib.sha256()

    def bad(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: not a GGUF file that can be read: {what}")

    def left(self) -> int:
        return min(self.size, HEADER_LIMIT) - self.at

    def take(self, count: int, what: str) -> bytes:
        if count > self.left():
            raise self.bad(f"{what} goes beyond the end of the file or of any sensible header")
        raw = self.file.read(count)
        if len(raw) != count:
            raise self.bad(f"the file ends inside {what}")
        self.at += count
        self.digest.update(raw)
        return raw

    def number(self, form: str, what: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form), what))[0]
        return value

    def count(self, least_bytes: int, what: str) -> int:
        """A count of things that take at least so many bytes each."""
        found = self.number("<Q", what)
        if found > MOST_ENTRIES or found * least_bytes > self.left():
            raise self.bad(f"{what} is {found}, more than the file can hold")
        return found

    def text(self, what: str, longest: int | None = None) -> str:
        length = self.number("<Q", f"the length of {what}")
        if longest is not None and length > longest:
            raise self.bad(f"{what} is {length} bytes long")
        # Vocabularies may hold pieces of characters; no text is made of those.
        return self.take(length, what).decode("utf-8", errors="replace")

    def value(self, kind: int, what: str) -> Any:
        if kind == STRING:
            return self.text(what)
        if kind == ARRAY:
            return self.array(what)
        if kind not in NUMBERS:
            raise self.bad(f"{what} is of unknown type {kind}")
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()

    def array(self, what: str) -> list[Any]:
        kind = self.number("<I", f"the type of {what}")
        if kind == STRING:
            return [self.text(what) for _ in range(self.count(8, f"the length of {what}"))]
        if kind not in NUMBERS:
            raise self.bad(f"{what} is an array of type {kind}, which edgekit does not read")
        dtype = np.dtype(NUMBERS[kind])
        count = self.count(dtype.itemsize, f"the length of {what}")
        listed: list[Any] = np.frombuffer(self.take(count * dtype.itemsize, what), dtype).tolist()
        return listed


def read_gguf(path: Path) -> GgufFile:
    """Reads the header of a file.

    Raises:
        CheckpointError: anything about the file contradicts the format, or it holds kinds that edgekit does not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(_Reader(path, file, size))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error


def _read(reader: _Reader) -> GgufFile:
    if reader.take(4, "the magic number") != MAGIC:
        raise reader.bad("it does not begin with GGUF")
    version = reader.number("<I", "the version")
    if version not in VERSIONS:
        odd = "; it is of a big-endian machine" if version & 0xFFFF == 0 and version else ""
        raise reader.bad(f"version {version} is not 2 or 3{odd}")
    tensors = reader.count(24, "the number of tensors")
    entries = reader.count(13, "the number of metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = reader.text("a key of the metadata", LONGEST_KEY)
        shown = repr(key[:LONGEST_NAME])
        if key in metadata:
            raise reader.bad(f"key {shown} is there twice")
        metadata[key] = reader.value(reader.number("<I", f"the type of {shown}"), f"the value of {shown}")
    rows = [_row(reader) for _ in range(tensors)]
    return GgufFile(
        reader.path, metadata, _placed(reader, rows, _alignment(reader, metadata)), reader.digest.hexdigest()
    )


def _alignment(reader: _Reader, metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or not 8 <= value <= LARGEST_ALIGNMENT or value & (value - 1):
        raise reader.bad("general.alignment is no power of two between 8 and a million")
    return value


def _row(reader: _Reader) -> Entry:
    """A row of the table, its offset still counted from the first tensor's byte."""
    name = reader.text("a tensor's name", LONGEST_NAME)
    shown = repr(name)
    if not name.isprintable() or not name:
        raise reader.bad(f"a tensor is named {shown}")
    axes = reader.number("<I", f"the number of axes of tensor {shown}")
    if not 1 <= axes <= MOST_AXES:
        raise reader.bad(f"tensor {shown} has {axes} axes")
    sizes = struct.unpack(f"<{axes}Q", reader.take(8 * axes, f"the shape of tensor {shown}"))
    if any(not 1 <= n <= LARGEST_AXIS for n in sizes):
        raise reader.bad(f"tensor {shown} has an axis of {next(n for n in sizes if not 1 <= n <= LARGEST_AXIS)}")
    number = reader.number("<I", f"the kind of tensor {shown}")
    if number not in KINDS:
        raise CheckpointError(
            f"{reader.path}: tensor {shown} is of kind {number}, which edgekit does not read; it reads "
            f"{', '.join(k.name for k in KINDS.values())}: take a file of one of those"
        )
    kind = KINDS[number]
    if sizes[0] % kind.values:
        raise reader.bad(f"rows of tensor {shown} have {sizes[0]} values, which is no multiple of {kind.values}")
    return Entry(name, kind, tuple(reversed(sizes)), reader.number("<Q", f"the offset of tensor {shown}"))


def _placed(reader: _Reader, rows: list[Entry], alignment: int) -> dict[str, Entry]:
    base = -(-reader.at // alignment) * alignment
    placed: dict[str, Entry] = {}
    for row in rows:
        size = math.prod(row.shape) // row.kind.values * row.kind.bytes
        if row.offset % alignment:
            raise reader.bad(f"tensor {row.name!r} is not aligned to {alignment} bytes")
        if row.offset > reader.size or base + row.offset + size > reader.size:
            raise reader.bad(f"tensor {row.name!r} goes beyond the end of the file; was it downloaded whole?")
        if row.name in placed:
            raise reader.bad(f"tensor {row.name!r} is there twice")
        placed[row.name] = Entry(row.name, row.kind, row.shape, base + row.offset)
    return placed
