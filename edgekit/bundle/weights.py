"""Decoded weights of a bundle, one matrix at a time: what tests compare with and exporters read.

The runtime does not use this; its reader is the one in C++.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.codecs import Codec, codec_of
from edgekit.codecs.base import F16, F32, U8
from edgekit.codecs.forms import Form
from edgekit.errors import BundleError


class BundleWeights:
    """Random access to a bundle's tensors by name."""

    def __init__(self, path: Path) -> None:
        """Opens a bundle.

        Raises:
            BundleError: not a bundle, or damaged.
        """
        self.path = path
        self.data = manifest.read(path).data
        self._matrices = {m["name"]: m for m in self.data["matrices"]}
        self._vectors = {v["name"]: v for v in self.data["vectors"]["list"]}

    def matrix_entry(self, name: str) -> dict[str, Any]:
        """What the manifest says of a matrix."""
        entry: dict[str, Any] = self._matrices[name]
        return entry

    def vector(self, name: str) -> npt.NDArray[Any]:
        """A vector, f32 [count], or the tables of a palette, f16 [count]."""
        v = self._vectors[name]
        dtype = "<f2" if v["dtype"] == "f16" else "<f4"
        return np.frombuffer(self._read("resident.bin", v["offset"], v["count"] * int(dtype[-1])), dtype)

    def matrix(self, name: str) -> list[F32]:
        """The parts of a matrix, each decoded, f32 [rows, cols]: one, or gate, up and down columns."""
        out = []
        for index, part in enumerate(self._matrices[name]["parts"]):
            codec, records, lut = self.records(name, index)
            out.append(codec.decode(records, part["cols"], lut))
        return out

    def form(self, name: str, index: int) -> Form:
        """What one part of a matrix stands for: codes, scales and tables apart, or plain numbers."""
        codec, records, lut = self.records(name, index)
        cols = self._matrices[name]["parts"][index]["cols"]
        arrays = codec.unpack(records, cols)
        return codec.values(arrays if lut is None else {**arrays, "lut": lut}, cols)

    def records(self, name: str, index: int) -> tuple[Codec, U8, F16 | None]:
        """One part of a matrix as it is stored: its codec, records [rows, bytes] and tables."""
        m = self._matrices[name]
        sizes = [record_bytes(p) for p in m["parts"]]
        units = -(-m["rows"] // m["rows_per_unit"])
        raw = np.frombuffer(self._read(m["file"], m["offset"], units * m["unit_stride"]), np.uint8)
        used = raw.reshape(units, -1)[:, : m["rows_per_unit"] * sum(sizes)]
        rows = used.reshape(-1, sum(sizes))[: m["rows"]]
        part, at = m["parts"][index], sum(sizes[:index])
        lut = self.vector(part["lut"]).reshape(-1, 1 << part["bits"]) if "lut" in part else None
        return codec_of(part), rows[:, at : at + sizes[index]], lut

    def rows(self, name: str, index: int, begin: int, end: int) -> F32:
        """Rows [begin, end) of one part of a matrix, decoded, f32 [end - begin, cols]."""
        m = self._matrices[name]
        sizes = [record_bytes(p) for p in m["parts"]]
        per, stride = m["rows_per_unit"], m["unit_stride"]
        first, last = begin // per, -(-end // per)
        raw = np.frombuffer(self._read(m["file"], m["offset"] + first * stride, (last - first) * stride), np.uint8)
        records = raw.reshape(last - first, stride)[:, : per * sum(sizes)].reshape(-1, sum(sizes))
        at = sum(sizes[:index])
        part = m["parts"][index]
        lut = None
        if "lut" in part:  # the tables of these rows, repeated so that every row has its own
            tables = self.vector(part["lut"]).reshape(-1, 1 << part["bits"])
            lut = tables[np.arange(begin, end) // part["lut_rows"]]
            codec = codec_of({**part, "lut_rows": 1})
        else:
            codec = codec_of(part)
        picked = records[begin - first * per : end - first * per, at : at + sizes[index]]
        return codec.decode(picked, part["cols"], lut)

    def _read(self, file: str, offset: int, size: int) -> bytes:
        with (self.path / file).open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) != size:
            raise BundleError(f"{self.path / file}: ends too early; was it replaced or truncated?")
        return data


def record_bytes(part: dict[str, Any]) -> int:
    """Bytes of a part's record."""
    return codec_of(part).record_bytes(part["cols"])
