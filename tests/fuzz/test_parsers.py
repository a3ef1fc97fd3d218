"""Every file that edgekit reads, changed at random: it means something, or is refused in one line."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.checksum import lane64
from edgekit.bundle.journal import Done, Journal, append
from edgekit.bundle.layout import FLASH, RESIDENT, Layout, plan_layout
from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.safetensors import read_header
from edgekit.cli.artifacts import artifact_line, list_artifacts
from edgekit.conversion import convert
from edgekit.converters import base
from edgekit.errors import BundleError
from edgekit.plan import device
from edgekit.recipe import load_recipe
from tests.conftest import DEMO
from tests.fuzz.mutations import answers, changed_bytes, changed_json

ROUNDS = int(os.environ.get("EDGEKIT_FUZZ_ROUNDS", "300"))
SEED = os.environ.get("EDGEKIT_FUZZ_SEED", "0")
MOST = 48 << 20  # bytes
HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [64, 66]},
    "c": {"dtype": "I64", "shape": [1], "data_offsets": [66, 74]},
}


def rounds(name: str, parse: Callable[[bytes], Any], change: Callable[[random.Random], bytes]) -> None:
    """Has a parser read changed files; some must be accepted, some refused, or the test tests nothing."""
    rng = random.Random(f"{name} {SEED}")
    answered = 0
    for _ in range(ROUNDS):
        data = change(rng)
        answered += answers(lambda data=data: parse(data), data[:4000], MOST)
    assert 0 < answered < ROUNDS


def test_safetensors_headers(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"

    def parse(raw: bytes) -> None:
        path.write_bytes(raw)
        for tensor in read_header(path)[0].values():
            if tensor.dtype in ("F32", "BF16"):
                tensor.read()

    def change(rng: random.Random) -> bytes:
        raw = changed_json(HEADER, rng)
        whole = struct.pack("<Q", len(raw)) + raw + bytes(80)
        return changed_bytes(whole, rng) if rng.random() < 0.3 else whole

    rounds("safetensors", parse, change)


def test_indexes_of_safetensors(tmp_path: Path) -> None:
    raw = json.dumps(HEADER).encode()
    for shard in ("one", "two"):
        header = raw.replace(b'"a"', b'"d"').replace(b'"b"', b'"e"').replace(b'"c"', b'"f"') if shard == "two" else raw
        (tmp_path / f"{shard}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(74))
    (tmp_path / "config.json").write_text("{}")
    names = {"a": "one", "b": "one", "c": "one", "d": "two", "e": "two", "f": "two"}
    index = {"metadata": {"total_size": 148}, "weight_map": {k: f"{v}.safetensors" for k, v in names.items()}}

    def parse(text: bytes) -> None:
        (tmp_path / "model.safetensors.index.json").write_bytes(text)
        open_checkpoint(tmp_path)

    rounds("index", parse, lambda rng: changed_json(index, rng))


def layout_of_demo() -> Layout:
    return plan_layout(describe_checkpoint(open_checkpoint(DEMO))[0], load_recipe("palette4"))


def test_journals(tmp_path: Path) -> None:
    layout = layout_of_demo()
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in (FLASH, RESIDENT):
        with (folder / file).open("wb") as made:
            made.truncate(max(layout.resident_bytes, layout.flash_bytes))
    journal = Journal(folder, layout, "key")
    plans = layout.matrices[:3]

    def change(rng: random.Random) -> bytes:
        journal.begin()
        with journal.path.open("a") as stream:
            for plan in plans:
                luts = {v.name: 0 for v in layout.vectors if v.source is None and v.name.startswith(plan.name)}
                append(stream, plan.name, Done([0] * plan.units, luts))
        lines = journal.path.read_bytes().split(b"\n")
        at = rng.randrange(len(lines))
        if lines[at].strip():
            lines[at] = changed_json(json.loads(lines[at]), rng)
        return b"\n".join(lines)

    def parse(data: bytes) -> None:
        journal.path.write_bytes(data)
        assert not journal.read(), "no checksum is right"

    rng = random.Random(f"journal {SEED}")
    for _ in range(ROUNDS):
        data = change(rng)
        assert answers(lambda data=data: parse(data), data, MOST), data  # what is damaged counts as not done


def test_a_journal_entry_counts_only_with_the_checksums_of_all_its_tables(tmp_path: Path) -> None:
    layout = layout_of_demo()
    (tmp_path / "bundle").mkdir()
    for file in (FLASH, RESIDENT):
        (tmp_path / "bundle" / file).write_bytes(bytes(max(layout.resident_bytes, layout.flash_bytes)))
    journal = Journal(tmp_path / "bundle", layout, "key")
    plan = next(m for m in layout.matrices if any(p.lut_name for p in m.parts))
    tables = {v.name: v for v in layout.vectors}
    luts = {p.lut_name: lane64(bytes(tables[p.lut_name].bytes)) for p in plan.parts if p.lut_name is not None}
    units = [lane64(bytes(plan.unit_stride))] * plan.units
    for listed, believed in ((luts, True), ({}, False), (luts | {"other": 0}, False)):
        journal.begin()
        with journal.path.open("a") as stream:
            append(stream, plan.name, Done(units, listed))
        assert (journal.read() == {plan.name: Done(units, luts)}) is believed


def profile_json() -> dict[str, Any]:
    reads = [{"size": s, "depth": d, "bytes_per_second": 1e8} for s in device.SIZES for d in device.DEPTHS]
    kernels = {device.kernel_name(c, b, down=d): 1e9 for c, b in device.KERNELS for d in (False, True)}
    return {
        "machine": "x", "threads": 2, "direct": True, "engine": "uring", "first_touch": 1e8, "stream": 1e8,
        "reads": reads, "kernels": kernels, "kernel_set": "portable", "made": 1e9, "spread": 0.1, "load_average": None,
        "cores": 2, "others": 0.01, "version": device.VERSION,
    }  # fmt: skip


def test_profiles(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"

    def parse(text: bytes) -> None:
        path.write_bytes(text)
        loaded = device.load(path)
        assert isinstance(loaded.doubts, tuple)
        assert 0 <= loaded.read_seconds(70000, 3, 5) < float("inf")
        loaded.save(tmp_path / "again.json")

    rounds("profile", parse, lambda rng: changed_json(profile_json(), rng))


@pytest.mark.parametrize(
    "change",
    [
        {"reads": []},
        {"reads": [{"size": 1.5, "depth": 1, "bytes_per_second": 1.0}]},
        {"reads": {"size": 4096}},
        {"kernels": []},
        {"kernels": {"f32": True}},
        {"machine": 5},
        {"engine": None},
        {"direct": "yes"},
        {"threads": 2.5},
        {"cores": 0},
        {"made": True},
        {"more": 1},
    ],
    ids=json.dumps,
)
def test_profiles_of_wrong_types_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile_json()))
    device.load(path)
    path.write_text(json.dumps(profile_json() | change))
    assert not answers(lambda: device.load(path), change, MOST)


def test_descriptions_of_artifacts(tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "m", "q4").path
    folder = bundle / "artifacts" / "onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"x" * 10)
    about = {
        "format": "edgekit-artifact", "version": base.VERSION, "kind": "onnx", "edgekit": "0",
        "bundle": base.checksum(bundle), "context": 128, "precision": "f32", "requantized_weights": 5,
        "requantized_rms": 0.1, "files": [{"path": "model.onnx", "bytes": 10, "sha256": "0" * 64}],
    }  # fmt: skip
    (folder / base.ABOUT).write_text(json.dumps(about))
    assert list_artifacts(bundle, 100)[0]["problem"] is None

    def parse(data: bytes) -> None:
        (folder / base.ABOUT).write_bytes(data)
        for entry in list_artifacts(bundle, 100):
            line = artifact_line(entry)
            assert len(line.splitlines()) == 1, line
            json.dumps(entry, allow_nan=False)
        artifact = base.read(bundle, "onnx")
        with pytest.raises(BundleError) as caught:  # no file has that SHA-256
            base.verify(artifact)
        assert len(str(caught.value).splitlines()) == 1

    rounds("artifact", parse, lambda rng: changed_json(about, rng))
