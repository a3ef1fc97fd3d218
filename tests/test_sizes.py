"""Sizes as people write them; what is no size is refused, never taken as "no limit"."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.errors import RuntimeFailure
from edgekit.sizes import parse_bytes
from tests.conftest import ROOT

GOOD = [
    ("400M", 400 << 20), ("1.5GiB", 3 << 29), ("12", 12), (12, 12), ("2kb", 2048), (".3G", 322122547),
    ("0.3G", 322122547), ("300M", 300 << 20), ("300MiB", 300 << 20), ("1.5GB", 3 << 29), (" 7 k ", 7168), ("1b", 1),
    ("9007199254740993", 9007199254740993), (1.5e9, 1_500_000_000),
]  # fmt: skip
BAD = ["", "M", "-1", "-1G", "4 X", "1e3", "nan", "inf", "0", "0M", "0.9", "0.0001K", ".", "5.", "1.2.3", "٣M", "0x10",
       "99999999T", "9" * 30, "1 2", "1M1"]  # fmt: skip


@pytest.mark.parametrize(("text", "size"), GOOD)
def test_sizes_read_as_people_write_them(text: str | float, size: int) -> None:
    assert parse_bytes(text) == size


def test_a_size_that_is_left_out_is_no_limit() -> None:
    assert parse_bytes(None) == 0


@pytest.mark.parametrize("text", [*BAD, 0, -1, float("nan"), float("inf"), 0.5])
def test_other_sizes_are_refused(text: str | float) -> None:
    with pytest.raises(RuntimeFailure, match="as in 400M"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["0", "0.9", "-1", "nan"])
def test_a_budget_below_one_byte_is_refused_by_every_command(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    demo = str(ROOT / "examples" / "demo_model" / "checkpoint")
    for arguments in (["profile", "--size", text], ["convert", demo, "-o", "never", "--unit-size", text]):
        assert main(arguments) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("edgekit: ")
        assert captured.err.count("\n") == 1
    assert not Path("never.edgekit").exists()


def test_default_threads_are_the_cores_that_affinity_leaves() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system has no affinity masks")
    script = (
        "import os; from edgekit.cores import usable_cores; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


def test_nothing_counts_cores_that_affinity_forbids() -> None:
    sources = [p for folder in ("edgekit", "converters") for p in (ROOT / folder).rglob("*.py")]
    assert [p.name for p in sources if "os.cpu_count" in p.read_text() and p.name != "cores.py"] == []
