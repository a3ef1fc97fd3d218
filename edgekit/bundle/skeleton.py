"""A bundle without weights: its files have their sizes and hold zeros, mostly as holes that take no room on the disk.

The planner says of it what it would say of the bundle itself, before anything is encoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgekit.arch.spec import Model
from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.bundle.layout import FLASH, MANIFEST, RESIDENT, UNITS, Layout
from edgekit.bundle.writer import TOKENIZER

CHECKSUM_BYTES = 8  # of a unit


def write_skeleton(
    folder: Path, model: Model, layout: Layout, provenance: dict[str, Any], files: Iterable[str]
) -> None:
    """Writes one into a new folder.

    Args:
        folder: to be made.
        model: its architecture.
        layout: where its weights would be.
        provenance: as the bundle's; a manifest takes memory, too.
        files: names of the tokenizer's files.

    Raises:
        OSError: the disk takes no more.
    """
    folder.mkdir()
    units = bytes(CHECKSUM_BYTES * layout.unit_count)
    (folder / UNITS).write_bytes(units)
    for name, size in ((RESIDENT, layout.resident_bytes), (FLASH, layout.flash_bytes)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    paths = (RESIDENT, FLASH, UNITS, *(f"{TOKENIZER}/{name}" for name in files))
    entries = [{"path": path, "bytes": 0, "sha256": "0" * 64} for path in paths]
    made = manifest.build(model, layout, provenance, lane64(bytes(layout.vectors_bytes)), lane64(units), entries)
    (folder / MANIFEST).write_bytes(made)
