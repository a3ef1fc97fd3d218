"""Writing a GGUF file whose tensors never are in memory together: the header and the table first, then each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgekit.codecs.base import U8
from edgekit.converters.gguf.blocks import BY_NAME, NUMBERS
from edgekit.errors import ConvertError


class GgufWriter:
    """`keys` takes metadata, `announce` tensors; `begin` then writes the header, and `write` each tensor in order."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.path = path
        self.keys = gguf.GGUFWriter(path, architecture)
        self.sizes: list[tuple[str, int]] = []

    def announce(self, name: str, shape: Sequence[int], kind: str) -> None:
        """Puts a tensor into the table; `shape` with rows first."""
        described = BY_NAME[kind]
        size = int(np.prod(shape, dtype=object)) // described.values * described.bytes
        bytes_shape = (*shape[:-1], shape[-1] // described.values * described.bytes)
        raw = gguf.GGMLQuantizationType(NUMBERS[kind])
        self.keys.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), size, raw_dtype=raw)
        self.sizes.append((name, size))

    def begin(self) -> None:
        """Writes everything but the tensors' bytes."""
        self.keys.write_header_to_file()
        self.keys.write_kv_data_to_file()
        self.keys.write_ti_data_to_file()
        self._pad()

    def write(self, name: str, pieces: Iterable[U8]) -> None:
        """Writes the bytes of the next tensor, piece by piece.

        Raises:
            ConvertError: it is not the next one, or of another size than announced.
        """
        wanted, size = self.sizes.pop(0)
        written = 0
        for piece in pieces:
            self._file().write(np.ascontiguousarray(piece).data)
            written += piece.nbytes
        if name != wanted or written != size:
            raise ConvertError(f"{self.path}: tensor '{name}' has {written} bytes, where '{wanted}' has {size}")
        self._pad()

    def close(self) -> None:
        """Ends the file."""
        self.keys.close()

    def _pad(self) -> None:
        file = self._file()
        file.write(b"\0" * (-file.tell() % self.keys.data_alignment))

    def _file(self) -> Any:
        assert self.keys.fout is not None
        return self.keys.fout[0]
