"""Where weights lie must not change a single bit of the result, and the budget holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.errors import BudgetError
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

IDS = np.random.default_rng(3).integers(3, 199, 40).tolist()


def run(bundle: Path, **options: object) -> tuple[np.ndarray, Session]:
    session = Session(bundle, Options(**{"context": 64, "batch": 8, **options}))  # type: ignore[arg-type]
    return np.concatenate([session.logits(IDS[:30])] + [session.logits([i]) for i in IDS[30:]]), session


@pytest.mark.parametrize(
    "name", ["llama", "mixtral", "gpt_neox", "opt_post_norm_projected", "llama_tied_biased", "qwen2_moe", "gemma4"]
)
@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_streamed_equals_resident_bit_for_bit(name: str, io: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f16").path
    want, session = run(bundle, threads=2)
    full = session.stats.peak_memory_bytes
    assert session.stats.generation_bytes_read == 0
    session.close()
    floor = plan_bundle(bundle, Options(context=64, batch=8, threads=2)).floor_bytes
    for ram in (floor, (floor + full) // 2, full):
        got, session = run(bundle, threads=2, ram=ram, io="auto" if io == "direct" else io)
        # A tight budget evaluates the prompt in smaller batches, whose sums run in another order.
        same_batch, resident = run(bundle, threads=2, batch=session.plan.max_batch)
        assert np.array_equal(got, same_batch)
        assert session.stats.peak_memory_bytes <= ram
        assert (session.stats.generation_bytes_read > 0) == (ram < full)
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
        resident.close()
        session.close()


def test_result_does_not_depend_on_threads(tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q4").path
    want, session = run(bundle, threads=1)
    session.close()
    for threads in (2, 3, 5):
        got, session = run(bundle, threads=threads)
        session.close()
        assert np.array_equal(got, want)


def test_budget_below_the_floor_names_the_floor(tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f16").path
    floor = plan_bundle(bundle, Options(context=64)).floor_bytes
    with pytest.raises(BudgetError, match=str(floor)):
        Session(bundle, Options(context=64, ram=floor - 1))
    Session(bundle, Options(context=64, ram=floor)).close()


@pytest.mark.parametrize("name", ["opt", "mixtral", "llama_relu"])
def test_every_budget_from_the_floor_up_opens_and_is_kept(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    for recipe in ("palette1", "f16"):
        bundle = convert(tmp_path / "checkpoint", tmp_path / recipe, recipe).path
        for context in (16, 128):
            whole = plan_bundle(bundle, Options(context=context))
            for step in range(12):
                ram = whole.floor_bytes + (whole.budget_bytes - whole.floor_bytes) * step // 11
                with Session(bundle, Options(context=context, ram=ram)) as session:
                    session.logits([3, 4, 5])
                    session.logits([6])
                    assert session.stats.peak_memory_bytes <= ram
