"""The ladder's page holds every run, also one that did not finish in time, and explains what it compares."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

import edgekit
from benchmarks import limits
from benchmarks.ram_ladder import MIB, Run, page, run_edgekit
from benchmarks.synthetic import LLAMA_1B
from tests.conftest import DEMO


def results(runs: list[Run], **sizes: int) -> dict[str, object]:
    return {
        "machine": {"processor": "a processor", "cores": 2, "system": "Linux"},
        "model": LLAMA_1B,
        "recipe": "palette4",
        "bytes": sizes,
        "tokens": 8,
        "repeats": 1,
        "runs": [asdict(run) for run in runs],
    }


def test_a_run_out_of_time_is_a_row_of_the_page(tmp_path: Path) -> None:
    if not limits.available():
        pytest.skip("memory groups cannot be made here")
    bundle = edgekit.convert(DEMO, tmp_path / "demo", recipe="palette4").path
    run = run_edgekit(bundle, 200 * MIB, 8, seconds=0.01)  # less than an interpreter takes to start
    assert (run.outcome, run.tokens_per_second) == ("timed out", 0.0)
    assert "| 200 | timed out |" in page(results([run], edgekit=4 * MIB))


def test_the_page_says_why_sizes_differ() -> None:
    run = Run("edgekit palette4", 200 * MIB, "finished", 10.0, 5.0, 100 * MIB)
    reason = "keeps the embedding and the head at 8 bits"
    assert reason in page(results([run], **{"edgekit": 700 * MIB, "llama.cpp Q4_0": 600 * MIB}))
    assert reason not in page(results([run], edgekit=700 * MIB))
