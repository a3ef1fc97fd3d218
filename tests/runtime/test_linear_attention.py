"""States of linear attention: they only go forward, and yet every text goes on, and back, as if they did not."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import manifest
from edgekit.codecs import make_codec
from edgekit.conversion import convert
from edgekit.errors import EdgekitError
from edgekit.recipe import Recipe, Rule
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.together import advance_together
from edgekit.runtime.values import Options, Sampling
from tests import tiny

IDS = np.random.default_rng(9).integers(3, 199, 300).tolist()
PROMPT = IDS[:36]
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.0, seed=4)
SPACING = 64  # of copies: Checkpoints::kSpacing
COPIES = 4  # Checkpoints::kMostStates
BASE = Options(context=320, batch=16, cache_type="f32", select="all")


@pytest.fixture(scope="module", params=["qwen3_next", "qwen3_5"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.MAKERS[request.param + "_long"] = lambda: long_context(request.param)
    tiny.make(request.param + "_long", folder / "checkpoint")
    del tiny.MAKERS[request.param + "_long"]
    convert(folder / "checkpoint", folder / "coarse", "q4")
    return convert(folder / "checkpoint", folder / "bundle", "f32").path


@contextlib.contextmanager
def drafted(session: Session, bundle: Path) -> Iterator[Session]:
    """A session for which the same model drafts, coarsely quantized: sometimes wrong."""
    with Session(bundle.parent / "coarse.edgekit", options(context=session.plan.context)) as drafter:
        session.draft_with(drafter)
        yield session
        session.draft_with(None)


def long_context(name: str) -> object:
    config = tiny.MAKERS[name]()
    config.max_position_embeddings = 320
    return config


def steps(session: Session, ids: list[int]) -> np.ndarray:
    return np.concatenate([session.logits([i]) for i in ids])


def texts(session: Session, count: int, sampling: Sampling = GREEDY) -> list[int]:
    return [session.next(sampling) for _ in range(count)]


def options(**more: object) -> Options:
    return dataclasses.replace(BASE, **more)  # type: ignore[arg-type]


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return bool(np.abs(got - want).max() <= 1e-5 * np.abs(want).max())


def first_state(session: Session, blocks: list[dict[str, Any]], file: Path) -> np.ndarray:
    """The state of the first block, from a saved session (runtime/src/model/session_file.h)."""
    session.save(file)
    at = 64 + 8 + 4 * session.position
    for b in blocks:
        if b["kind"] == "attention":
            at += 2 * b["kv_heads"] * (8 + session.position * b["head_dim"] * 4)
    b = blocks[0]
    channels = 2 * b["key_heads"] * b["key_dim"] + b["value_heads"] * b["value_dim"]
    count = b["value_heads"] * b["key_dim"] * b["value_dim"] + (b["taps"] - 1) * channels
    return np.frombuffer(file.read_bytes()[at + 8 :][: 4 * count], np.float32)


@pytest.mark.parametrize("batch", [1, 5, 16])
def test_a_state_has_the_same_bits_when_tokens_come_one_by_one_and_together(batch: int, tmp_path: Path) -> None:
    tiny.make("qwen3_5", tmp_path / "checkpoint")
    recipe = Recipe("whole", (Rule("*", make_codec("affine", 8)),))
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe).path
    blocks = manifest.read(bundle).data["model"]["blocks"]
    with Session(bundle, options(batch=batch, context=128, activations="int8")) as session:
        session.eval(IDS[:37])
        session.eval(IDS[37:60])
        got = first_state(session, blocks, tmp_path / "saved")
        assert np.abs(got).max() > 0
        session.reset()
        for token in IDS[:60]:
            session.eval([token])
        assert np.array_equal(first_state(session, blocks, tmp_path / "saved"), got)
    convert(tmp_path / "checkpoint", tmp_path / "coarse", "q4")
    with Session(bundle, options(draft_tokens=6, activations="int8", context=128)) as session:
        session.eval(PROMPT)
        with drafted(session, bundle):
            text = texts(session, 40)
        assert 0 < session.stats.accepted_tokens < session.stats.drafted_tokens
        got = first_state(session, blocks, tmp_path / "saved")
        session.reset()
        session.eval(PROMPT + text[:-1])
        assert np.array_equal(first_state(session, blocks, tmp_path / "saved"), got)


def test_threads_and_streaming_change_no_bit(bundle: Path) -> None:
    plan = plan_bundle(bundle, options(threads=3, batch=1))
    with Session(bundle, options(threads=1, batch=1)) as session:
        want = np.concatenate([session.logits(IDS[:30]), steps(session, IDS[30:50])])
    for ram in (plan.floor_bytes, plan.floor_bytes + plan.weight_bytes // 2, None):
        with Session(bundle, options(threads=3, batch=1, ram=ram)) as session:
            assert np.array_equal(np.concatenate([session.logits(IDS[:30]), steps(session, IDS[30:50])]), want)
            assert session.stats.peak_memory_bytes <= session.plan.budget_bytes


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_rejected_drafts_cost_no_second_look_at_the_text(bundle: Path, sampling: Sampling) -> None:
    with Session(bundle, options()) as session:
        session.eval(PROMPT)
        want = texts(session, 120, sampling)
    with Session(bundle, options(draft_tokens=6)) as session, drafted(session, bundle):
        session.eval(PROMPT)
        assert texts(session, 120, sampling) == want
        stats = session.stats
        assert 0 < stats.accepted_tokens < stats.drafted_tokens
        assert stats.prompt_tokens == len(PROMPT)


def test_a_hybrid_drafts_for_another_and_is_corrected(bundle: Path, tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    other = convert(tmp_path / "checkpoint", tmp_path / "llama", "q8").path
    for model, drafter in ((bundle, other), (other, bundle), (bundle, bundle)):
        with Session(model, options(context=128)) as session:
            session.eval(IDS[:40])
            want = texts(session, 40)
        with Session(model, options(context=128, draft_tokens=4)) as session:
            session.draft_with(Session(drafter, options(context=128)))
            session.eval(IDS[:40])
            assert texts(session, 40) == want
            assert session.stats.drafted_tokens > 0


def test_a_session_with_drafts_is_saved_copied_and_rewound_anywhere(bundle: Path, tmp_path: Path) -> None:
    with Session(bundle, options()) as session:
        session.eval(PROMPT)
        want = texts(session, 60)
    with Model(bundle, options(draft_tokens=6, sessions=2)) as model:
        first, second = model.create_session(), model.create_session()
        with drafted(first, bundle):
            for stop in range(1, 30):
                first.reset()
                first.eval(PROMPT)
                assert texts(first, stop) == want[:stop]
                held = first.position  # the last token is not evaluated
                first.save(tmp_path / "saved")
                second.restore(tmp_path / "saved")
                assert second.position == held
                second.eval(want[stop - 1 : stop])
                assert texts(second, 10) == want[stop : stop + 10]
                first.reset()
                first.eval(PROMPT)
                assert texts(first, stop + 5) == want[: stop + 5]
                second.copy_from(first, held)
                second.eval(want[stop - 1 : stop])
                assert texts(second, 10) == want[stop : stop + 10]
                first.rewind(held)
                first.eval(want[stop - 1 : stop])
                assert texts(first, 10) == want[stop : stop + 10]
            assert 0 < first.stats.accepted_tokens < first.stats.drafted_tokens
        first.close()
        second.close()


@pytest.mark.parametrize("block", [0, 3, 5])
@pytest.mark.parametrize("drafts", [0, 4])
def test_a_pass_that_fails_midway_changes_nothing(bundle: Path, block: int, drafts: int) -> None:
    given = options(draft_tokens=drafts)
    with Session(bundle, given) as session:
        session.eval(PROMPT)
        want = texts(session, 80)
    with Session(bundle, given) as session:
        session.eval(PROMPT)
        got = texts(session, 10)
        failed = 0

        def stop(index: int, _: np.ndarray) -> None:
            nonlocal failed
            if index >= block:
                session.cancel()
                failed += 1

        for _ in range(3):
            before = session.position
            with session.capturing(stop), pytest.raises(EdgekitError, match="cancelled"):
                session.eval(IDS[:20])
            assert session.position == before
            with session.capturing(stop), pytest.raises(EdgekitError, match="cancelled"):
                session.eval(IDS[:1])
        assert failed == 6
        session.eval(got[-1:])
        got += texts(session, 70)
        assert got == want
        # Each failure costs at most what lies behind the last copy.
        assert session.stats.prompt_tokens <= len(PROMPT) + 6 * (SPACING + 1)


def test_going_back_evaluates_a_bounded_number_of_tokens_again(bundle: Path) -> None:
    with Session(bundle, options()) as session:
        session.eval(IDS[:20])
        for token in IDS[20:]:
            session.eval([token])
        for back in (1, 30, 63):
            session.rewind(len(IDS))
            before = session.stats.prompt_tokens
            session.rewind(len(IDS) - back)
            assert session.stats.prompt_tokens - before <= 2 * SPACING
            session.eval(IDS[len(IDS) - back :])
        before = session.stats.prompt_tokens
        session.rewind(150)
        assert session.stats.prompt_tokens - before <= 2 * len(IDS) / COPIES
        want = steps(session, IDS[150:170])
        session.rewind(0)
        session.eval(IDS[:150])
        assert close(steps(session, IDS[150:170]), want)


def test_budget_changes_leave_the_states_as_they_are(bundle: Path) -> None:
    plan = plan_bundle(bundle, options(batch=4))
    most = plan.floor_bytes + plan.weight_bytes
    with Session(bundle, options(batch=4, ram=most)) as session:
        want = np.concatenate([session.logits(IDS[:20]), steps(session, IDS[20:80])])
        session.reset()
        got = [session.logits(IDS[:20])]
        for i, token in enumerate(IDS[20:80]):
            if i % 7 == 0:
                session.set_budget(most - (i % 3) * plan.weight_bytes // 4)
            got.append(session.logits([token]))
    assert np.array_equal(np.concatenate(got), want)


def test_states_of_a_session_that_was_cancelled_do_not_run_ahead(bundle: Path) -> None:
    with Model(bundle, options(sessions=3)) as model:
        prompts = [IDS[: 10 + i] for i in range(3)]
        want = []
        for prompt in prompts:
            with model.create_session() as session:
                session.eval(prompt)
                want.append(texts(session, 20))
        sessions = [model.create_session() for _ in prompts]
        for session, prompt in zip(sessions, prompts, strict=True):
            session.eval(prompt)
        got: list[list[int]] = [[session.next(GREEDY)] for session in sessions]
        for i in range(19):
            if i % 5 == 2:
                sessions[i % 3].cancel()
                errors = advance_together(sessions)
                assert [e is None for e in errors] == [j != i % 3 for j in range(3)]
            assert advance_together(sessions) == [None] * 3
            for session, text in zip(sessions, got, strict=True):
                text.append(session.next(GREEDY))
        assert got == want
        for session in sessions:
            session.close()


def test_plan_counts_states_copies_and_drafts(bundle: Path) -> None:
    blocks = [b for b in manifest.read(bundle).data["model"]["blocks"] if b["kind"] == "linear_attention"]
    state = sum(
        b["value_heads"] * b["key_dim"] * b["value_dim"]
        + (b["taps"] - 1) * (2 * b["key_heads"] * b["key_dim"] + b["value_heads"] * b["value_dim"])
        for b in blocks
    )
    one, two = (plan_bundle(bundle, options(sessions=n)).floor_bytes for n in (1, 2))
    assert two - one >= (1 + COPIES) * 4 * state
    assert plan_bundle(bundle, options(draft_tokens=8)).floor_bytes > one
