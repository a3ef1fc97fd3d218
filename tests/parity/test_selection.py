"""Leaving out neurons whose value is zero must not change a single bit; the window must not either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.reference import Reference
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

IDS = np.random.default_rng(3).integers(3, 199, 40).tolist()


def run(bundle: Path, **options: object) -> tuple[np.ndarray, Session]:
    session = Session(bundle, Options(**{"context": 64, "batch": 8, **options}))  # type: ignore[arg-type]
    return np.concatenate([session.logits(IDS[:30])] + [session.logits([i]) for i in IDS[30:]]), session


def budgets(bundle: Path, full: int, **options: object) -> list[int]:
    floor = plan_bundle(bundle, Options(**{"context": 64, "batch": 8, **options})).floor_bytes  # type: ignore[arg-type]
    return [floor, (floor + full) // 2, full * 9 // 10]


@pytest.mark.parametrize("name", ["opt_wide", "llama_relu", "bitnet"])
@pytest.mark.parametrize("engine", ["uring", "threads"])
@pytest.mark.parametrize("recipe", ["f16", "q4"])
def test_exact_selection_equals_dense_bit_for_bit(name: str, engine: str, recipe: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe, layout="split").path
    dense = run(bundle, select="all")[1]
    full = dense.stats.peak_memory_bytes
    oracle = Reference(bundle).logits(IDS)
    plain, floats = run(bundle, select="all", activations="f32")
    assert np.abs(plain - oracle).max() <= 2e-3 * np.abs(oracle).max()  # f16 cache
    floats.close()
    for window in (None, 0, 1, 3):
        for ram in budgets(bundle, full, select="exact"):
            got, session = run(bundle, select="exact", window=window, engine=engine, ram=ram)
            same_batch, _ = run(bundle, select="all", batch=session.plan.max_batch)
            assert np.array_equal(got, same_batch)
            stats = session.stats
            assert session.plan.select == "exact"
            assert stats.peak_memory_bytes <= ram
            assert stats.window_misses > 0
            assert 0 < stats.selected < stats.neurons
            session.close()


def test_look_ahead_from_a_dense_block_to_a_mixture_changes_no_bit(tmp_path: Path) -> None:
    tiny.make("qwen3_moe", tmp_path / "checkpoint")  # its second layer is dense, the third a mixture
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q4").path
    ahead, first = run(bundle, select="prompt", sparsity=0.3)
    without, second = run(bundle, select="prompt", sparsity=0.3, lookahead=False)
    assert np.array_equal(ahead, without)
    first.close()
    second.close()
