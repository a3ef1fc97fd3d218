"""Warm starts: the same text from a window that knows more; nothing of a bad file is believed."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import BundleError, EdgekitError, RuntimeFailure
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests.conftest import DEMO

GREEDY = Sampling(temperature=0)
CHUNK = 1024  # as runtime/src/cache/warm.cpp has it
Entries = list[tuple[int, list[float]]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("warm") / "demo.edgekit", "q4", layout="split").path


def options(bundle: Path, share: float = 0.9) -> Options:
    """A budget with room for a share of the weights."""
    plain = Options(context=200, select="exact", threads=1)
    plan = plan_bundle(bundle, plain)
    return Options(ram=int(plan.floor_bytes + share * plan.weight_bytes), context=200, select="exact", threads=1)


def write(session: Session, count: int, first: int = 5) -> tuple[list[int], int]:
    """A greedy text behind a prompt, and the bytes that were read for it."""
    session.reset()
    session.eval([1, first, 9, 12, 40, 7])
    before = session.stats.bytes_read
    return [session.next(GREEDY) for _ in range(count)], session.stats.bytes_read - before


@pytest.fixture(scope="module")
def learned(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learned") / "warm"
    for first in (20, 30):
        with Session(bundle, options(bundle)) as session:
            write(session, 64, first)
            session.model.save_warm(path)
    return path


def parse(path: Path) -> tuple[bytes, Entries]:
    """The header and the counts of each matrix."""
    data = path.read_bytes()
    at, entries = 64, []
    for _ in range(struct.unpack_from("<I", data, 24)[0]):
        matrix, units = struct.unpack_from("<II", data, at + 8)
        at += 16
        counts: list[float] = []
        while len(counts) < units:
            n = min(CHUNK, units - len(counts))
            counts += struct.unpack_from(f"<{n}f", data, at + 8)
            at += 8 + 4 * n
        entries.append((matrix, counts))
    assert at == len(data)
    return data[:64], entries


def signed(data: bytes) -> bytes:
    return struct.pack("<Q", lane64(data)) + data


def build(header: bytes, entries: Entries, **fields: int) -> bytes:
    """A file with right checksums, whatever it says."""
    body = b""
    for matrix, counts in entries:
        body += signed(struct.pack("<II", matrix, fields.get("units", len(counts))))
        for begin in range(0, len(counts), CHUNK):
            part = counts[begin : begin + CHUNK]
            body += signed(struct.pack(f"<{len(part)}f", *part))
    size = fields.get("size", 64 + len(body))
    head = header[:16] + struct.pack("<QI", size, fields.get("matrices", len(entries))) + header[28:56]
    return head + struct.pack("<Q", lane64(head)) + body


def test_a_warm_run_writes_the_same_text_and_reads_less(bundle: Path, learned: Path) -> None:
    with Session(bundle, options(bundle)) as session:
        want, cold = write(session, 16)
    with Session(bundle, options(bundle)) as session:
        session.model.load_warm(learned)
        got, warm = write(session, 16)
        stats = session.stats
    assert got == want
    assert stats.peak_memory_bytes <= int(options(bundle).ram or 0)
    assert warm < cold


def test_counts_are_of_the_units_that_were_used(bundle: Path, learned: Path) -> None:
    _, entries = parse(learned)
    matrices = manifest.read(bundle).data["matrices"]
    assert [m for m, _ in entries] == sorted({m for m, _ in entries})
    assert all(m < len(matrices) for m, _ in entries)
    counts = np.concatenate([c for _, c in entries])
    assert (counts >= 0).all()
    assert counts.max() > 2 * counts.min()  # some units are wanted more often than others


def test_runs_add_up_and_earlier_ones_fade(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "warm"
    with Session(bundle, options(bundle)) as session:
        write(session, 20)
        session.model.save_warm(path)
        once = [c for _, c in parse(path)[1]]
        session.model.save_warm(path)
        twice = [c for _, c in parse(path)[1]]
    np.testing.assert_allclose(np.concatenate(twice), 1.5 * np.concatenate(once), rtol=1e-5)


def test_any_budget_takes_a_file_and_one_without_a_window_writes_none(
    bundle: Path, learned: Path, tmp_path: Path
) -> None:
    with Session(bundle, options(bundle)) as session:
        want, _ = write(session, 16)
    for chosen in (options(bundle, 0.3), options(bundle, 0.6)):
        with Session(bundle, chosen) as session:
            session.model.load_warm(learned)
            assert write(session, 16)[0] == want
    with Session(bundle, Options(context=200, select="all", threads=1)) as session:
        session.model.load_warm(learned)
        assert write(session, 16)[0] == want
        with pytest.raises(RuntimeFailure, match="no units come through a window"):
            session.model.save_warm(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def bad_files(learned: Path) -> dict[str, bytes]:
    data, (header, entries) = learned.read_bytes(), parse(learned)
    matrix, counts = entries[0]
    rest = entries[1:]
    other = data[:8] + bytes(8) + data[16:56]
    return {
        "empty": b"",
        "text": b"a letter to a friend" * 10,
        "cut": data[:-1],
        "cut header": data[:40],
        "longer": data + b"\0",
        "flipped count": data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
        "flipped header": data[:20] + b"\1" + data[21:],
        "another bundle": other + struct.pack("<Q", lane64(other)) + data[64:],
        "not a number": build(header, [(matrix, [float("nan"), *counts[1:]]), *rest]),
        "infinite": build(header, [(matrix, [float("inf"), *counts[1:]]), *rest]),
        "negative": build(header, [(matrix, [-1.0, *counts[1:]]), *rest]),
        "huge": build(header, [(matrix, [1e30, *counts[1:]]), *rest]),
        "unknown matrix": build(header, [*entries, (1 << 31, [0.0])]),
        "last matrix": build(header, [*entries, ((1 << 32) - 1, [0.0])]),
        "twice": build(header, [entries[0], *entries]),
        "out of order": build(header, [*rest, entries[0]]),
        "fewer units": build(header, [(matrix, counts[:-1]), *rest]),
        "more units than there are": build(header, entries, units=(1 << 32) - 1),
        "no units": build(header, entries, units=0),
        "more matrices than there are": build(header, entries, matrices=(1 << 32) - 1),
        "fewer matrices than there are": build(header, entries, matrices=1),
        "another size": build(header, entries, size=1 << 63),
    }


def test_forged_files_are_refused_and_stay(bundle: Path, learned: Path, tmp_path: Path) -> None:
    header, entries = parse(learned)
    assert build(header, entries) == learned.read_bytes()  # what is refused below is what was changed
    path = tmp_path / "warm"
    with Session(bundle, options(bundle)) as session:
        want, _ = write(session, 8)
        for what, data in bad_files(learned).items():
            path.write_bytes(data)
            for call in (session.model.load_warm, session.model.save_warm):
                with pytest.raises(EdgekitError) as caught:
                    call(path)
                assert str(path) in str(caught.value), what
                assert "remove it" in str(caught.value), what
            assert path.read_bytes() == data, what
        assert write(session, 8)[0] == want
        path.unlink()
        with pytest.raises(BundleError, match="cannot be opened"):
            session.model.load_warm(path)
        os.mkfifo(path)
        with pytest.raises(BundleError, match="no regular file"):
            session.model.load_warm(path)
        with pytest.raises(RuntimeFailure, match="cannot be written"):
            session.model.save_warm(tmp_path / "no folder" / "warm")


def test_run_keeps_a_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, ram = tmp_path / "warm", str(options(bundle).ram)
    command = ["run", str(bundle), "-p", "Once upon a time", "-n", "24", "--temp", "0", "--select", "exact", "-q"]
    tight = [*command, "--ctx-size", "200", "-t", "1", "--ram", ram]
    assert main(tight) == 0
    want = capsys.readouterr().out
    for _ in range(2):
        assert main([*tight, "--warm", str(path)]) == 0
        assert capsys.readouterr().out == want
    assert parse(path)[1]
    assert main([*command, "--warm", str(tmp_path / "other")]) == 0
    said = capsys.readouterr()
    assert said.out == want
    assert "no units come through a window" in said.err
    assert not (tmp_path / "other").exists()
    path.write_text("mine")
    assert main([*tight, "--warm", str(path)]) == 1
    said = capsys.readouterr()
    assert "remove it" in said.err
    assert not said.out
    assert path.read_text() == "mine"
