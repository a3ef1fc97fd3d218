"""Sessions of models whose blocks remember the last tokens only: going back, saving, drafts and budgets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.errors import BundleError
from edgekit.generate.loop import TextModel
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import ROOT

IDS = np.random.default_rng(3).integers(3, 199, 120).tolist()
GREEDY = Sampling(temperature=0)
MODELS = ["lfm2", "lfm2_moe", "qwen3_next", "qwen3_5"]


@pytest.fixture(scope="module", params=MODELS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.make(request.param, folder / "checkpoint")
    shutil.copy(ROOT / "examples" / "demo_model" / "checkpoint" / "tokenizer.json", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "f32").path


def options(**more: object) -> Options:
    return Options(**{"context": 128, "batch": 16, "cache_type": "f32", **more})  # type: ignore[arg-type]


def whole(bundle: Path, ids: list[int]) -> np.ndarray:
    with Session(bundle, options()) as session:
        return np.concatenate([session.logits(ids[i : i + 16]) for i in range(0, len(ids), 16)])


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return bool(np.abs(got - want).max() <= 1e-5 * np.abs(want).max())


@pytest.mark.parametrize("position", [0, 1, 5, 16, 31, 47, 60, 75, 99])
def test_a_session_goes_back_to_any_token(bundle: Path, position: int) -> None:
    other = IDS[:position] + IDS[100:120]
    want = whole(bundle, other)[position:]
    with Session(bundle, options()) as session:
        for begin in range(0, 64, 16):
            session.eval(IDS[begin : begin + 16])
        for token in IDS[64:100]:
            session.eval([token])
        session.rewind(position)
        assert session.position == position
        got = np.concatenate([session.logits(other[i : i + 16]) for i in range(position, len(other), 16)])
    assert close(got, want)


def test_a_session_goes_back_again_and_again(bundle: Path) -> None:
    with Session(bundle, options()) as session:
        ids: list[int] = []
        random = np.random.default_rng(0)
        for _ in range(25):
            keep = int(random.integers(0, len(ids) + 1))
            session.rewind(keep)
            more = random.integers(3, 199, int(random.integers(1, min(30, 121 - keep)))).tolist()
            ids = ids[:keep] + more
            session.eval(more)
            assert session.tokens == ids
        got = session.logits(IDS[:5])
    assert close(got, whole(bundle, ids + IDS[:5])[-5:])


@pytest.mark.parametrize("back", [0, 3, 70])
def test_a_saved_session_goes_on_and_back(bundle: Path, back: int, tmp_path: Path) -> None:
    with Session(bundle, options()) as session:
        for begin in range(0, 96, 16):
            session.eval(IDS[begin : begin + 16])
        session.save(tmp_path / "saved")
    want = whole(bundle, IDS[: 96 - back] + IDS[100:110])[96 - back :]
    for batch in (16, 4):
        with Session(bundle, options(batch=batch)) as session:
            session.restore(tmp_path / "saved")
            session.rewind(96 - back)
            got = np.concatenate([session.logits(IDS[i : i + 2]) for i in range(100, 110, 2)])
        assert close(got, want)


def test_a_damaged_checkpoint_is_refused(bundle: Path, tmp_path: Path) -> None:
    with Session(bundle, options()) as session:
        session.eval(IDS[:16])
        session.eval(IDS[16:32])
        session.save(tmp_path / "saved")
        data = bytearray((tmp_path / "saved").read_bytes())
        data[-3] ^= 1
        (tmp_path / "saved").write_bytes(data)
        with pytest.raises(BundleError, match="damaged"):
            session.restore(tmp_path / "saved")
        assert session.position == 0
        got = session.logits(IDS[:16])
    assert close(got, whole(bundle, IDS[:16]))


def test_a_prompt_cache_serves_a_prompt_that_ends_otherwise(bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, second = IDS[:100], IDS[:60] + IDS[100:110]
    with TextModel(bundle, options()) as plain, TextModel(bundle, options()) as cached:
        list(cached.generate(first, 3, GREEDY, ignore_eos=True, prompt_cache=cache))
        want = [p.token for p in plain.generate(second, 8, GREEDY, ignore_eos=True)]
        got = cached.generate(second, 8, GREEDY, ignore_eos=True, prompt_cache=cache)
        assert [p.token for p in got] == want
        assert got.cached_tokens == 60


def test_drafts_change_no_token(bundle: Path) -> None:
    texts = []
    for draft in (0, 6):
        with Session(bundle, options(draft_tokens=draft, select="all")) as session:
            session.eval(IDS[:8] * 3)
            texts.append([session.next(GREEDY) for _ in range(60)])
            drafted = session.stats.drafted_tokens
    assert texts[0] == texts[1]
    assert drafted > 0


def test_the_budget_holds_with_checkpoints(bundle: Path) -> None:
    floor = plan_bundle(bundle, options()).floor_bytes
    want = whole(bundle, IDS)
    with Session(bundle, options(ram=floor)) as session:
        for begin in range(0, 120, session.plan.max_batch):
            session.eval(IDS[begin : begin + session.plan.max_batch])
        session.rewind(70)
        got = np.concatenate([session.logits([i]) for i in IDS[70:80]])
        assert session.stats.peak_memory_bytes <= floor
    assert close(got, want[70:80])
