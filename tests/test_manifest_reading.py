"""Reading a manifest: what is refused before it can mean two things."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.errors import BundleError


def sign(rest: bytes) -> bytes:
    return f'{{"checksum":"{lane64(rest):016x}",\n'.encode() + rest


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(sign(b'"format": "edgekit", "version": 1}'))
    assert manifest.read(tmp_path).data["version"] == 1
    path.write_bytes(sign(b'"format": "edgekit", "version": 2, "version": 1}'))
    with pytest.raises(BundleError, match="not valid JSON"):
        manifest.read(tmp_path)


def test_a_manifest_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleError, match="too large"):
        manifest.read(tmp_path)
