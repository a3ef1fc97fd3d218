"""GGUF files that lie: each is refused in one line, and none makes more memory than the file is large."""

from __future__ import annotations

import os
import re
import shutil
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.gguf_file import read_gguf
from edgekit.errors import EdgekitError
from tests import gguf_files, tiny
from tests.test_gguf import tiny_model

HUGE = (1 << 63, (1 << 64) - 1, 1 << 40)
RANDOM = np.random.default_rng(11)


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def header(tensors: int = 0, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def tensor(name: bytes = b"a", sizes: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0, axes: int = -1) -> bytes:
    count = len(sizes) if axes < 0 else axes
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", count, *sizes, kind, offset)


def alignment(value: int) -> bytes:
    return text(b"general.alignment") + struct.pack("<II", 4, value)


DATA = bytes(4096)
LIES = {
    "empty": b"",
    "magic": b"GGML" + bytes(64),
    "version": header(version=4),
    "big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    **{f"tensors_{n}": header(tensors=n) + DATA for n in HUGE},
    **{f"entries_{n}": header(entries=n) + DATA for n in HUGE},
    **{f"key_{n}": header(entries=1) + text(b"k", n) + DATA for n in HUGE},
    **{f"text_{n}": header(entries=1) + text(b"k") + struct.pack("<I", 8) + text(b"", n) + DATA for n in HUGE},
    **{f"numbers_{n}": header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 6, n) + DATA for n in HUGE},
    **{f"texts_{n}": header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 8, n) + DATA for n in HUGE},
    "nested": header(entries=1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IIQ", 9, 9, 1) * 60,
    "type": header(entries=1) + text(b"k") + struct.pack("<I", 77) + DATA,
    "twice": header(entries=2) + (text(b"k") + struct.pack("<IB", 0, 1)) * 2,
    **{f"alignment_{n}": header(1, 1) + alignment(n) + tensor() + DATA for n in (0, 1, 48, 1 << 31)},
    **{f"axis_{n}": header(1) + tensor(sizes=(32, n)) + DATA for n in (0, *HUGE)},
    "product": header(1) + tensor(sizes=(1 << 32, 1 << 32)) + DATA,
    "axes": header(1) + tensor(axes=1 << 31) + DATA,
    "no_axes": header(1) + tensor(sizes=(), axes=0) + DATA,
    "half_a_block": header(1) + tensor(sizes=(33,), kind=2) + DATA,
    "kind": header(1) + tensor(kind=1000) + DATA,
    **{f"offset_{n}": header(1) + tensor(offset=n) + DATA for n in (1, 4096, 1 << 63, (1 << 64) - 32)},
    "name": header(1) + tensor(name=b"a\nb") + DATA,
    "long_name": header(1) + tensor(name=b"a" * 300) + DATA,
    "two": header(2) + tensor() * 2 + DATA,
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(LIES[name])
    tracemalloc.start()
    try:
        with pytest.raises(EdgekitError) as found:
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(found.value)


def test_files_cut_or_changed_anywhere_are_refused_or_opened(tmp_path: Path) -> None:
    whole = gguf_files.write(
        tmp_path / "whole.gguf", tiny.make("llama", tmp_path / "model"), extra=gguf_files.vocabulary(199)
    )
    raw, path = whole.read_bytes(), tmp_path / "model.gguf"
    end = len(raw) - sum(t.nbytes for t in open_checkpoint(whole).tensors.values())
    for length in (*range(0, 200), *RANDOM.integers(200, len(raw), 100).tolist()):
        path.write_bytes(raw[:length])
        with pytest.raises(EdgekitError) as found:
            open_checkpoint(path)
        assert "\n" not in str(found.value)
    for _ in range(300):
        changed = bytearray(raw)
        for at in RANDOM.integers(0, end, RANDOM.integers(1, 4)):
            changed[at] = RANDOM.integers(0, 256)
        path.write_bytes(changed)
        with suppress(EdgekitError):  # anything else fails
            describe_checkpoint(open_checkpoint(path))


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5_moe", "lfm2_moe"])
def test_hybrids_with_changed_metadata_are_refused_or_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gguf_files.write(tmp_path / "whole.gguf", tiny_model(name, tmp_path / "model", monkeypatch))
    raw, path = whole.read_bytes(), tmp_path / "model.gguf"
    keys = [at.end() for at in re.finditer(rb"\.(ssm|attention|expert|shortconv|rope)[._a-z]+", raw)]
    for at in keys:
        kind = struct.unpack_from("<I", raw, at)[0]
        for value in (0, 1, 3, 1 << 16, (1 << 32) - 1) if kind in (4, 5) else ():
            path.write_bytes(raw[: at + 4] + struct.pack("<I", value) + raw[at + 8 :])
            tracemalloc.start()
            try:
                with suppress(EdgekitError):  # anything else fails
                    found = open_checkpoint(path)
                    describe_checkpoint(found)
                    for tensor in found.tensors.values():
                        tensor.read(0, 1)
                assert tracemalloc.get_traced_memory()[1] < 16 << 20
            finally:
                tracemalloc.stop()


def test_a_file_of_another_architecture_names_those_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(0, 1) + text(b"general.architecture") + struct.pack("<I", 8) + text(b"mamba") + DATA)
    with pytest.raises(EdgekitError, match="'mamba' is not read from GGUF; these are: llama, qwen2"):
        open_checkpoint(path)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A model in one file, and the same in several."""
    folder = tmp_path_factory.mktemp("parts")
    model, more = tiny.make("llama", folder / "model"), gguf_files.vocabulary(199)
    whole = gguf_files.write(folder / "whole.gguf", model, extra=more)
    gguf_files.write(folder / "model.gguf", model, extra=more, split=12)
    return whole, sorted(folder.glob("model-*.gguf"))


def copied(files: list[Path], folder: Path) -> list[Path]:
    return [Path(shutil.copy(file, folder)) for file in files]


def changed_key(file: Path, key: bytes, old: bytes, new: bytes) -> None:
    """Puts another value of a key, with its type, into a file."""
    raw = file.read_bytes()
    assert text(key) + old in raw
    file.write_bytes(raw.replace(text(key) + old, text(key) + new, 1))


def u16(value: int) -> bytes:
    return struct.pack("<IH", 2, value)


def test_files_of_one_model_are_read_together(parts: tuple[Path, list[Path]], tmp_path: Path) -> None:
    whole, files = open_checkpoint(parts[0]), parts[1]
    assert len(files) == 3
    for file in (files[0], files[2]):
        found = open_checkpoint(file)
        assert found.tensors.keys() == whole.tensors.keys()
        assert all(np.array_equal(t.read(), whole.tensors[name].read()) for name, t in found.tensors.items())
        assert found.config == whole.config
        assert found.file("tokenizer.json") == whole.file("tokenizer.json")
    assert open_checkpoint(files[0]).identity == open_checkpoint(files[1]).identity != whole.identity
    here = copied(files, tmp_path)
    first = open_checkpoint(here[0]).fingerprint
    os.utime(here[2], ns=(1, 1))
    assert open_checkpoint(here[0]).fingerprint != first


def test_a_missing_file_is_named(parts: tuple[Path, list[Path]], tmp_path: Path) -> None:
    files = copied(parts[1], tmp_path)
    files[1].unlink()
    with pytest.raises(EdgekitError, match=r"has 3 files; missing beside it: model-00002-of-00003\.gguf; download"):
        open_checkpoint(files[0])


def test_files_that_do_not_belong_together_are_refused(parts: tuple[Path, list[Path]], tmp_path: Path) -> None:
    files = copied(parts[1], tmp_path)
    shutil.copy(files[1], files[2])
    with pytest.raises(EdgekitError, match=r"00003-of-00003\.gguf: is not file 3 of 3, as its name says"):
        open_checkpoint(files[0])
    changed_key(files[2], b"split.no", u16(1), u16(2))
    with pytest.raises(EdgekitError, match="is in two files of the model"):
        open_checkpoint(files[0])
    alone = Path(shutil.copy(files[0], tmp_path / "alone.gguf"))
    with pytest.raises(EdgekitError, match="is one of 3 files of a model and does not have the name of one"):
        open_checkpoint(alone)
    changed_key(files[0], b"split.tensors.count", struct.pack("<I", 5), struct.pack("<I", 5))
    shutil.copy(parts[1][2], files[2])
    raw = files[0].read_bytes()
    at = raw.index(text(b"split.tensors.count")) + len(text(b"split.tensors.count")) + 4
    files[0].write_bytes(raw[:at] + struct.pack("<i", -7) + raw[at + 4 :])
    with pytest.raises(EdgekitError, match="promises -7 tensors, and its 3 files have"):
        open_checkpoint(files[0])


@pytest.mark.parametrize(
    "lie",
    [u16(1001), u16(65535), struct.pack("<If", 6, 3.0), struct.pack("<Ih", 3, -1), struct.pack("<IQ", 10, 1 << 63)],
)
def test_counts_of_files_that_lie_are_refused(lie: bytes, parts: tuple[Path, list[Path]], tmp_path: Path) -> None:
    file = copied(parts[1][:1], tmp_path)[0]
    changed_key(file, b"split.count", u16(3), lie)
    with pytest.raises(EdgekitError) as found:
        open_checkpoint(file)
    assert "\n" not in str(found.value)
