"""Proves a bundle whole: manifest, SHA-256 of every file, and every unit through the runtime's reader."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgekit.bundle import manifest
from edgekit.bundle.layout import VISION
from edgekit.errors import BundleError
from edgekit.runtime.model import verify_units

CHUNK = 4 << 20

Progress = Callable[[int, int], None]  # bytes done, of all


@dataclass(frozen=True)
class Verified:
    """What was found good."""

    files: int
    bytes: int
    units: int


def verify(path: str | Path, progress: Progress | None = None) -> Verified:
    """Checks a bundle completely.

    Raises:
        BundleError: the first thing that is wrong.
    """
    folder = Path(path)
    data = manifest.read(folder).data
    files, done = check_files(folder, data, "", progress)
    verify_units(folder)
    units = data["units"]["count"]
    if (folder / VISION).is_dir():
        verify_units(folder / VISION)
        units += manifest.read(folder / VISION).data["units"]["count"]
    return Verified(files, done, units)


def check_files(folder: Path, data: dict[str, Any], prefix: str, progress: Progress | None = None) -> tuple[int, int]:
    """Compares size and SHA-256 of the listed files whose path begins with `prefix`.

    Returns:
        How many files, and their bytes.

    Raises:
        BundleError: the first that differs.
    """
    listed = data.get("files")
    if not isinstance(listed, list) or not all(isinstance(e, dict) and isinstance(e.get("path"), str) for e in listed):
        raise BundleError(f"{folder}: the manifest lists no files")
    entries = [e for e in listed if e["path"].startswith(prefix)]
    total = sum(e["bytes"] for e in entries if isinstance(e.get("bytes"), int))
    done = 0
    for entry in entries:
        for size in _check_file(folder, entry):
            done += size
            if progress is not None:
                progress(done, total)
    return len(entries), done


def _check_file(folder: Path, entry: dict[str, Any]) -> Iterator[int]:
    """Yields the size of each piece hashed; raises if the file is not the one that was written."""
    name = entry["path"]
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BundleError(f"{folder}: the manifest lists a file outside the bundle: {name!r}")
    file = folder / name
    digest = hashlib.sha256()
    try:
        if file.stat().st_size != entry.get("bytes"):
            raise BundleError(f"{file}: {file.stat().st_size} bytes, the manifest says {entry.get('bytes')}")
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                yield len(chunk)
    except OSError as error:
        raise BundleError(f"{file}: cannot read: {error.strerror}") from error
    if digest.hexdigest() != entry.get("sha256"):
        raise BundleError(f"{file}: does not match its SHA-256; it is damaged, convert the checkpoint again")
