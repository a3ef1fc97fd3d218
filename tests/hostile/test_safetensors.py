"""A safetensors file is hostile until checked; tests are named after attacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.safetensors import read_header
from edgekit.errors import CheckpointError


def write(path: Path, header: Any, data: bytes = bytes(64), length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(**change: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **change}}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"w": 1}',
        b"[" * 100000,
        entry(data_offsets=[0, 65]),
        entry(data_offsets=[64, 128]),
        entry(data_offsets=[-64, 0]),
        entry(data_offsets=[64, 0]),
        entry(data_offsets=[0]),
        entry(data_offsets=[0, 2**64]),
        entry(data_offsets="0,64"),
        entry(shape=[2**40, 2**40]),
        entry(shape=[-4, -4]),
        entry(shape=[4.0, 4]),
        entry(shape=[True, 16]),
        entry(shape=[1] * 100),
        entry(dtype="F32", shape=[4, 5]),
    ],
)
def test_malformed_headers_are_refused(header: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        read_header(write(tmp_path / "w.safetensors", header))


@pytest.mark.parametrize("length", [2**63, 2**40, 10**8, 1000])
def test_header_length_beyond_the_file_is_refused_before_allocation(length: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="header length"):
        read_header(write(tmp_path / "w.safetensors", entry(), length=length))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "w.safetensors", entry()).read_bytes()
    for size in range(len(whole)):
        (tmp_path / "w.safetensors").write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_header(tmp_path / "w.safetensors")


def test_file_cut_after_opening_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "w.safetensors", entry())
    tensors, _ = read_header(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="replaced or truncated"):
        tensors["w"].read()


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_index_cannot_leave_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="plain file name"):
        open_checkpoint(tmp_path)


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "blob", entry())
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert list(open_checkpoint(folder).tensors) == ["w"]
