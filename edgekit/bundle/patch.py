"""A bundle with one tensor replaced for a while, so that what the tensor is worth can be measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.bundle.layout import MANIFEST, UNITS
from edgekit.bundle.weights import BundleWeights, record_bytes
from edgekit.codecs import codec_of

F32 = npt.NDArray[np.float32]


@contextmanager
def replaced(bundle: Path, matrix: str, index: int, values: F32) -> Iterator[None]:
    """Within it, a part of a matrix holds other values f32 [rows, cols]; afterwards it is as it was.

    The part must have a codec without tables, as plain numbers have; nobody else may use the bundle meanwhile.
    """
    place = Place(bundle, BundleWeights(bundle).matrix_entry(matrix), index)
    before = place.read()
    try:
        replace(bundle, matrix, index, values)
        yield
    finally:
        place.write(before)


def replace(bundle: Path, matrix: str, index: int, values: F32) -> None:
    """Puts other values f32 [rows, cols] into a part of a matrix, for good."""
    weights = BundleWeights(bundle)
    entry = weights.matrix_entry(matrix)
    codec = codec_of(entry["parts"][index])
    place = Place(bundle, entry, index)
    place.write(place.with_records(place.read(), codec.pack({"values": values}, entry["parts"][index]["cols"])))


class Place:
    """The bytes of a matrix in its file, and its checksums."""

    def __init__(self, bundle: Path, entry: dict[str, Any], index: int) -> None:
        self.bundle, self.entry = bundle, entry
        sizes = [record_bytes(p) for p in entry["parts"]]
        self.at, self.size, self.stride = sum(sizes[:index]), sizes[index], sum(sizes)
        self.units = -(-entry["rows"] // entry["rows_per_unit"])

    def read(self) -> npt.NDArray[np.uint8]:
        """Units u8 [units, unit_stride]."""
        with (self.bundle / self.entry["file"]).open("rb") as file:
            file.seek(self.entry["offset"])
            raw = file.read(self.units * self.entry["unit_stride"])
        return np.frombuffer(raw, np.uint8).reshape(self.units, -1)

    def with_records(self, units: npt.NDArray[np.uint8], records: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The units with other records of the part, u8 [rows, record_bytes]."""
        out, per = units.copy(), self.entry["rows_per_unit"]
        wide = np.zeros((self.units * per, self.size), np.uint8)
        wide[: len(records)] = records
        rows = out[:, : per * self.stride].reshape(self.units, per, self.stride)
        rows[:, :, self.at : self.at + self.size] = wide.reshape(self.units, per, self.size)
        out[:, : per * self.stride] = rows.reshape(self.units, -1)
        return out

    def write(self, units: npt.NDArray[np.uint8]) -> None:
        """Writes the units, their checksums, and the manifest, which holds the checksum of these."""
        with (self.bundle / self.entry["file"]).open("r+b") as file:
            file.seek(self.entry["offset"])
            file.write(units.tobytes())
        sums = np.fromfile(self.bundle / UNITS, "<u8")
        first = self.entry["first_unit"]
        sums[first : first + self.units] = [lane64(u) for u in units]
        sums.tofile(self.bundle / UNITS)
        data = dict(manifest.read(self.bundle).data)
        data.pop("checksum")
        data["units"] = {**data["units"], "checksum": f"{lane64(sums.tobytes()):016x}"}
        (self.bundle / MANIFEST).write_bytes(manifest.sign(data))
