"""Encoders within a memory budget: streamed weights change nothing, activations of the longest text are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.errors import BudgetError, ContextFullError, RuntimeFailure
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import encoders, tiny

RNG = np.random.default_rng(5)
TEXTS = [TokenText(tuple(RNG.integers(3, 99, n).tolist())) for n in (40, 3, 64, 1, 20, 20, 11)]


@pytest.mark.parametrize("name", ["bert", "modernbert"])
@pytest.mark.parametrize("scores", [False, True])
def test_streamed_equals_resident_bit_for_bit(name: str, scores: bool, tmp_path: Path) -> None:
    encoders.make(name, tmp_path / "checkpoint", scores)
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f16").path
    with Session(bundle, Options(threads=2)) as session:
        want = session.embed(TEXTS, states=True)
        full = session.stats.peak_memory_bytes
    floor = plan_bundle(bundle, Options(threads=2)).floor_bytes
    assert floor < full
    for ram in (floor, (floor + full) // 2, full):
        with Session(bundle, Options(threads=2, ram=ram)) as session:
            before = session.stats.bytes_read
            got = session.embed(TEXTS, states=True)
            assert (session.stats.bytes_read > before) == (ram < full)
            assert session.stats.peak_memory_bytes <= ram
        assert np.array_equal(got.vectors, want.vectors)
        assert np.array_equal(got.scores, want.scores)
        assert all(np.array_equal(a, b) for a, b in zip(got.states, want.states, strict=True))
    with pytest.raises(BudgetError, match=str(floor)):
        Session(bundle, Options(threads=2, ram=floor - 1))


def test_a_longer_context_takes_more_for_activations_and_nothing_for_keys(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    short, long = (plan_bundle(bundle, Options(context=c)) for c in (8, 64))
    assert (short.max_batch, long.max_batch) == (8, 64)
    assert short.kv_bytes == long.kv_bytes == 0
    assert long.activation_bytes > 2 * short.activation_bytes
    with Session(bundle, Options(context=8)) as session:
        session.embed([TokenText(tuple(range(3, 11)))])
        with pytest.raises(ContextFullError, match="9 tokens is longer than the 8 of the context"):
            session.embed([TokenText(tuple(range(3, 12)))])


def test_texts_that_share_a_pass_share_its_reads(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f16").path
    texts = [TokenText((5, 6, 7, 8))] * 16  # a pass of 64 tokens
    floor = plan_bundle(bundle, Options()).floor_bytes
    read = []
    for calls in ([texts], [[t] for t in texts]):
        with Session(bundle, Options(ram=floor)) as session:
            before = session.stats.bytes_read
            for call in calls:
                session.embed(call)
            read.append(session.stats.bytes_read - before)
    assert read[0] < read[1] / 4


def test_a_budget_may_change_between_texts(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f16").path
    floor = plan_bundle(bundle, Options()).floor_bytes
    with Model(bundle) as model, model.create_session() as session:
        want = session.embed(TEXTS).vectors
        for ram in (floor + 50_000, None, floor + 100_000):
            model.set_budget(ram)
            assert np.array_equal(session.embed(TEXTS).vectors, want)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
def test_a_decoder_gives_hidden_states_too(pooling: str, tmp_path: Path) -> None:
    import torch

    model = tiny.make("qwen3", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    ids = tuple(RNG.integers(3, 199, 29).tolist())
    with torch.no_grad():
        states = model.model(torch.tensor([ids])).last_hidden_state[0]
    pooled = {"cls": states[0], "mean": states.mean(0), "max": states.max(0).values, "last": states[-1]}[pooling]
    with Session(bundle, Options(cache_type="f32", batch=5)) as session:
        session.eval([7, 8, 9])
        got = session.embed([TokenText(ids), TokenText(ids[:1])], pooling, normalize=True, states=True)
        assert np.abs(got.states[0] - states.numpy()).max() <= 1e-4
        assert np.abs(got.vectors[0] - torch.nn.functional.normalize(pooled, dim=0).numpy()).max() <= 1e-4
        assert session.position == 0  # its own tokens are forgotten
        session.eval([7, 8, 9])


def test_wrong_texts_are_refused_in_a_line(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    with Session(bundle) as session:
        for text, reason in (
            (TokenText(()), "without tokens"),
            (TokenText((99,)), "outside the vocabulary"),
            (TokenText((5,), (2,)), "token type 2"),
            (TokenText((5,), (300,)), "out of range"),
            (TokenText((5, 6), (1,)), "2 tokens and 1 token types"),
            (TokenText((5,) * 65), "longer than the 64"),
        ):
            with pytest.raises(RuntimeFailure, match=reason):
                session.embed([TokenText((5,)), text])
        with pytest.raises(RuntimeFailure, match="pooling is 'sum'"):
            session.embed([TokenText((5,))], "sum")
        assert np.isfinite(session.embed([TokenText((5,))]).vectors).all()
    with pytest.raises(RuntimeFailure, match="takes no drafts"):
        Session(bundle, Options(draft_tokens=4))
