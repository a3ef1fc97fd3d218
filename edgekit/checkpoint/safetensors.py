"""Lazy, bounds-checked reading of safetensors files.

Files are read with positioned reads instead of being mapped: mapped pages count towards the memory
of the process, and `convert` promises never to hold the model. Nothing in a header is believed
before it is checked; the format is described at https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs import Codec, make_codec
from edgekit.errors import CheckpointError

HEADER_LIMIT = 100_000_000  # the limit of the reference implementation

# bf16 has no NumPy dtype; its bits travel as uint16 and widen in `to_f32`.
DTYPES: dict[str, tuple[str, int]] = {"F32": ("<f4", 4), "F16": ("<f2", 2), "BF16": ("<u2", 2)}
# Packed weights are bytes and words, which only their own readers understand.
STORED = DTYPES | {"U8": ("u1", 1), "I8": ("i1", 1), "F8_E4M3": ("u1", 1), "I32": ("<i4", 4), "U32": ("<u4", 4)}
STORED |= {"I64": ("<i8", 8)}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint, not read yet.

    Attributes:
        name: its name.
        path: the file that holds it.
        dtype: "F32", "F16" or "BF16".
        shape: its shape.
        offset: of its first byte in the file.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def row_items(self) -> int:
        """Elements of one row, that is of one index of the first axis."""
        count = 1
        for size in self.shape[1:]:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        size = STORED[self.dtype][1]
        return self.shape[0] * self.row_items * size if self.shape else size

    @property
    def stored_as(self) -> str:
        """What the file calls the kind of its values."""
        return self.dtype

    @property
    def codec(self) -> Codec | None:
        """A codec that holds the rows just as they are stored, if there is one; its arrays come from `arrays`."""
        return make_codec(self.dtype.lower()) if self.dtype in DTYPES else None

    @property
    def exact(self) -> bool:
        """Whether the weights of `codec` are equal to those that `read` gives."""
        return True

    @property
    def shared(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays of `codec` that all rows share."""
        return {}

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of `codec`."""
        return {"values": to_f32(self.read(begin, end), self.dtype)}

    def item(self, index: int) -> Tensor:
        """One of the tensors that this one stacks along its first axis."""
        at = self.offset + index * self.row_items * STORED[self.dtype][1]
        return replace(self, shape=self.shape[1:], offset=at)

    def read(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [begin, end) in the stored dtype (bf16 as uint16), shape [end - begin, ...].

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        rows = self.shape[0] if self.shape else 1
        end = rows if end is None else end
        if not 0 <= begin <= end <= rows:
            raise CheckpointError(f"{self.path.name}: rows {begin}-{end} of '{self.name}' do not exist")
        numpy_dtype, size = STORED[self.dtype]
        out = np.empty((end - begin, *self.shape[1:]), dtype=numpy_dtype)
        view = out.reshape(-1).view(np.uint8).data
        at = self.offset + begin * self.row_items * size
        done = 0
        try:
            with self.path.open("rb", buffering=0) as file:
                while done < len(view):
                    got = os.preadv(file.fileno(), [view[done:]], at + done)
                    if got == 0:
                        raise CheckpointError(
                            f"{self.path}: ends inside tensor '{self.name}'; was it replaced or truncated?"
                        )
                    done += got
                if hasattr(os, "posix_fadvise"):  # what was read once is not needed again
                    os.posix_fadvise(file.fileno(), at, len(view), os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot read: {error.strerror}") from error
        return out


def to_f32(values: npt.NDArray[np.generic], dtype: str) -> npt.NDArray[np.float32]:
    """Stored values as f32; `dtype` tells bf16 bits from numbers."""
    if dtype == "BF16":
        wide: npt.NDArray[np.float32] = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    return values.astype(np.float32, copy=False)


def read_header(path: Path) -> tuple[dict[str, Tensor], bytes]:
    """The tensors of a file, and the raw header (for telling whether a file has changed).

    Raises:
        CheckpointError: anything about the file contradicts the format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(f"{path}: too short to be a safetensors file")
            length = int.from_bytes(prefix, "little")
            if length > min(HEADER_LIMIT, size - 8):
                raise CheckpointError(f"{path}: header length {length} exceeds the file or the limit")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header is not valid JSON") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object")
    tensors = {
        name: _tensor(path, name, entry, 8 + length, size) for name, entry in header.items() if name != "__metadata__"
    }
    return tensors, raw


def _tensor(path: Path, name: str, entry: object, base: int, size: int) -> Tensor:
    def whole(values: object, most: int) -> bool:
        return (
            isinstance(values, list)
            and len(values) <= most
            and all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 1 << 48 for x in values)
        )

    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: entry of tensor '{name}' is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not whole(shape, 8) or not whole(offsets, 2) or len(offsets or []) != 2:
        raise CheckpointError(f"{path}: tensor '{name}' has a malformed shape or data_offsets")
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    if not isinstance(dtype, str):
        raise CheckpointError(f"{path}: tensor '{name}' has a dtype that is no text")
    if dtype not in STORED:
        # Kept with an unreadable dtype: only an error if a model needs it (buffers are often ints).
        return Tensor(name, path, dtype, tuple(shape), 0)
    count = 1
    for n in shape:
        count *= n
    begin, end = offsets
    if end - begin != count * STORED[dtype][1] or base + end > size:
        raise CheckpointError(f"{path}: tensor '{name}' does not fit its data_offsets or the file")
    return Tensor(name, path, dtype, tuple(shape), base + begin)
