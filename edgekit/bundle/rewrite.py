"""A bundle with other arrays and vectors in the place of its own: what fine-tuning makes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.bundle.disk import sync_tree, write_file
from edgekit.bundle.layout import MANIFEST, RESIDENT
from edgekit.bundle.patch import Place
from edgekit.bundle.weights import BundleWeights
from edgekit.bundle.writer import file_entry
from edgekit.codecs import codec_of
from edgekit.codecs.base import Arrays

F32 = npt.NDArray[np.float32]


def rewrite(
    source: Path,
    out: Path,
    parts: Mapping[tuple[str, int], Arrays],
    vectors: Mapping[str, F32],
    provenance: Mapping[str, Any],
) -> None:
    """Writes a copy of a bundle, of the same size, in which some of the numbers are others.

    Args:
        source: the bundle.
        out: the folder to make; what is there goes away.
        parts: arrays of matrices' parts, in their own codecs.
        vectors: by name.
        provenance: added to that of the source.

    Raises:
        BundleError: the source is damaged.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(source, out)
    weights = BundleWeights(source)
    tables = dict(vectors)
    for (name, index), arrays in parts.items():
        entry = weights.matrix_entry(name)
        part = entry["parts"][index]
        place = Place(out, entry, index)
        place.write(place.with_records(place.read(), codec_of(part).pack(arrays, part["cols"])))
        if "lut" in part:
            tables[part["lut"]] = np.asarray(arrays["lut"], np.float32).reshape(-1)
    _write_vectors(out, weights.data, tables)
    data = dict(manifest.read(out).data)
    del data["checksum"]
    with (out / RESIDENT).open("rb") as file:
        data["vectors"] = {**data["vectors"], "checksum": f"{lane64(file.read(data['vectors']['bytes'])):016x}"}
    data["provenance"] = {**data["provenance"], **provenance}
    data["files"] = [file_entry(out, out / f["path"]) for f in data["files"]]
    write_file(out / MANIFEST, manifest.sign(data))
    sync_tree(out)


def _write_vectors(bundle: Path, data: dict[str, Any], values: Mapping[str, F32]) -> None:
    entries = {v["name"]: v for v in data["vectors"]["list"]}
    with (bundle / RESIDENT).open("r+b") as file:
        for name, vector in values.items():
            entry = entries[name]
            assert vector.shape == (entry["count"],)
            file.seek(entry["offset"])
            file.write(vector.astype("<f2" if entry["dtype"] == "f16" else "<f4").tobytes())
