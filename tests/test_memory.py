"""`run` stays within its budget under a limit that the kernel enforces, page cache included."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import limits
from edgekit.conversion import convert
from tests.test_convert import big_checkpoint

MIB = 1 << 20


@pytest.mark.slow
def test_bundle_larger_than_the_limit_generates(tmp_path: Path) -> None:
    if not limits.available():
        pytest.skip("needs root and the memory controller of cgroups")
    checkpoint = big_checkpoint(tmp_path / "checkpoint", layers=16, hidden=1024)
    done = convert(checkpoint, tmp_path / "bundle", "palette4")
    assert done.bundle_bytes > 120 * MIB
    limit = 112 * MIB  # of which the interpreter and its libraries need about 50
    limits.drop_cache(done.path)
    command = [sys.executable, "-m", "edgekit", "run", str(done.path), "-p", "Once upon a time", "-n", "16", "--json"]
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    try:
        ran = limits.run_limited([*command, "--ram", "48M", "--ignore-eos"], limit, environment)
    except OSError as error:
        pytest.skip(f"cannot make a memory group here: {error}")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert len(report["token_ids"]) == 16
    assert report["peak_memory_bytes"] <= 48 * MIB
    assert report["bytes_read_per_token"] > 50 * MIB
    assert ran.peak <= limit
