"""The budget changes while text is generated: memory follows at once, the text does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.errors import BudgetError, BundleError
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from edgekit.sizes import parse_bytes
from tests import tiny
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"
MIB = 1 << 20


def resident_bytes() -> int:
    """Memory of this process that is really there."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * 4096  # without what is shared with files


def generate(session: Session, tokens: int, each: object = None) -> list[int]:
    """Greedy tokens, beginning afresh whenever the context is full."""
    out: list[int] = []
    for i in range(tokens):
        if session.position in (0, session.plan.context):
            session.reset()
            session.eval([1, 403, 407, 5 + len(out) % 1000])
        token = session.next(Sampling(temperature=0))
        out.append(token)
        session.eval([token])
        if callable(each):
            each(i)
    return out


@pytest.mark.parametrize("select", ["all", "exact"])
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_thousand_tokens_while_the_budget_changes(select: str, tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "demo", "f32", layout="split").path
    options = {"context": 200, "batch": 4, "threads": 2, "select": select}
    with Session(bundle, Options(**options)) as session:  # type: ignore[arg-type]
        want = generate(session, 1000)
    before = resident_bytes()
    budgets = itertools.cycle(["30M", "6M", "12M", "4M", "40M", "9M", "20M", "5M"])
    current = parse_bytes("16M")
    with Session(bundle, Options(ram=current, **options)) as session:  # type: ignore[arg-type]

        def change(i: int) -> None:
            nonlocal current
            if i % 50 == 49:
                current = parse_bytes(next(budgets))
                session.set_budget(current)
                assert session.plan.budget_bytes == current
            assert session.stats.memory_bytes <= current
            assert resident_bytes() - before <= 1.05 * current + MIB  # stacks, the interpreter's own growth

        got = generate(session, 1000, change)
        assert session.stats.generation_bytes_read > 0
    assert got == want


def test_resident_model_shrinks_and_grows_back(tmp_path: Path) -> None:
    tiny.make("mixtral", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    ids = np.random.default_rng(0).integers(3, 199, 30).tolist()
    with Session(bundle, Options(context=64, batch=2, threads=2)) as session:
        want = [session.logits([t]) for t in ids]
        whole = session.stats.memory_bytes
        session.reset()
        got = []
        for i, token in enumerate(ids):
            if i == 5:
                session.set_budget(whole * 3 // 4)
                assert session.stats.memory_bytes <= whole * 3 // 4
            if i == 15:
                session.set_budget(None)
                assert session.plan.resident_bytes + session.plan.window_bytes >= session.plan.weight_bytes
            got.append(session.logits([token]))
        assert session.stats.generation_bytes_read > 0
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_budget_below_what_is_held_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    tiny.make("llama_relu", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f16", layout="split").path
    with Session(bundle, Options(context=64, batch=8, ram="2M", select="exact")) as session:
        a = session.logits([3, 4, 5])
        plan = session.plan
        with pytest.raises(BudgetError, match="too small"):
            session.set_budget("10K")
        assert session.plan == plan
        session.reset()
        assert np.array_equal(a, session.logits([3, 4, 5]))


def test_growth_that_cannot_be_read_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    tiny.make("llama_relu", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f16").path
    whole = plan_bundle(bundle, Options(context=64, batch=2, select="all"))
    small = (whole.floor_bytes + whole.budget_bytes) // 2
    with Session(bundle, Options(context=64, batch=2, ram=small, select="all")) as session:
        want = [session.logits([t]) for t in (3, 4, 5)]
        before = session.plan.resident_bytes
        flash = bundle / "flash.bin"
        good = flash.read_bytes()
        flash.write_bytes(bytes(b ^ 1 for b in good))  # every unit is damaged now, in place
        with pytest.raises(BundleError, match="damaged"):
            session.set_budget(None)
        assert session.plan.resident_bytes <= before
        flash.write_bytes(good)
        session.reset()
        assert all(np.array_equal(session.logits([t]), w) for t, w in zip((3, 4, 5), want, strict=True))
