"""Positions whose embeddings are given, as a picture's are: the same bits as their tokens, whatever the batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.bundle.weights import BundleWeights
from edgekit.conversion import convert
from edgekit.errors import ContextFullError, EdgekitError, RuntimeFailure
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny

IDS = np.random.default_rng(5).integers(3, 190, 40).tolist()
F32 = Options(cache_type="f32", context=64)
GREEDY = Sampling(temperature=0)


def make(name: str, folder: Path) -> tuple[torch.nn.Module, Path]:
    model = tiny.make(name, folder / "checkpoint")
    return model, convert(folder / "checkpoint", folder / "bundle", "f32").path


def rows_of(bundle: Path, ids: list[int]) -> np.ndarray:
    """The embeddings of tokens, scaled as the model does it."""
    weights = BundleWeights(bundle)
    table = weights.data["model"]["embedding"]
    return weights.matrix(table["matrix"])[0][ids] * np.float32(table["scale"])


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "lfm2", "gemma4", "qwen3_5"])
@pytest.mark.parametrize("batch", [0, 7])
def test_they_are_the_same_bits_as_tokens(name: str, batch: int, tmp_path: Path) -> None:
    _, bundle = make(name, tmp_path)
    options = Options(cache_type="f32", context=64, batch=batch)
    with Session(bundle, options) as session:
        want = session.logits(IDS)
        session.reset()
        got = [session.logits(IDS[:9])]
        got.append(session.embedding_logits(rows_of(bundle, IDS[9:30]), IDS[9:30]))
        got.append(session.logits(IDS[30:]))
        assert session.tokens == IDS
    assert np.array_equal(np.concatenate(got), want)


def test_what_is_given_counts_and_not_the_token(tmp_path: Path) -> None:
    model, bundle = make("llama", tmp_path)
    rows = np.random.default_rng(1).standard_normal((12, 64)).astype(np.float32)
    embedded = model.get_input_embeddings()(torch.tensor([IDS])).detach().clone()
    embedded[0, 9:21] = torch.from_numpy(rows)
    with torch.no_grad():
        want = model(inputs_embeds=embedded).logits[0].numpy()
    for batch in (0, 5):
        with Session(bundle, Options(cache_type="f32", context=64, batch=batch)) as session:
            session.eval(IDS[:9])
            got = session.embedding_logits(rows, [7] * 12)
            got = np.concatenate([got, session.logits(IDS[21:])])
            assert session.tokens == [*IDS[:9], *[7] * 12, *IDS[21:]]
        assert np.abs(got - want[9:]).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_those_that_see_each_other(name: str, tmp_path: Path) -> None:
    """Against a mask of our own in transformers; a sliding window still says how far back they see."""
    model, bundle = make(name, tmp_path)
    rows = np.random.default_rng(1).standard_normal((16, 64)).astype(np.float32)
    scale = BundleWeights(bundle).data["model"]["embedding"]["scale"]
    table = model.get_input_embeddings()
    embedded = table(torch.tensor([IDS])).detach().clone()
    if name == "llama":
        embedded = embedded * scale
    embedded[0, 9:25] = torch.from_numpy(rows)
    n = len(IDS)
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    seen = distance >= 0
    together = np.zeros(n, dtype=bool)
    together[9:25] = True
    both = together[:, None] & together[None, :]
    masks = {"full_attention": seen | both, "sliding_attention": (seen | both) & (distance < 9)}
    given = {k: torch.where(torch.from_numpy(m), 0.0, float("-inf"))[None, None] for k, m in masks.items()}
    with torch.no_grad():
        mask = given if name == "gemma3" else given["full_attention"]
        want = model(inputs_embeds=embedded, attention_mask=mask).logits[0].numpy()
    with Session(bundle, F32) as session:
        got = session.logits(IDS[:9])
        got = np.concatenate([got, session.embedding_logits(rows, [7] * 16, both_ways=True)])
        got = np.concatenate([got, session.logits(IDS[25:])])
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_going_back_and_on(tmp_path: Path) -> None:
    _, bundle = make("llama", tmp_path)
    rows = np.random.default_rng(1).standard_normal((12, 64)).astype(np.float32)
    with Session(bundle, Options(cache_type="f32", context=64, sessions=2)) as session:
        session.eval(IDS[:9])
        session.eval_embeddings(rows, [7] * 12)
        assert [(g.begin, g.end) for g in session.given] == [(9, 21)]
        want = session.logits(IDS[21:25])
        session.rewind(21)
        assert np.array_equal(session.logits(IDS[21:25]), want)
        with session.model.create_session() as other:
            other.copy_from(session, 21)
            assert other.given == session.given
            assert np.array_equal(other.logits(IDS[21:25]), want)
        with pytest.raises(RuntimeFailure, match="not saved"):
            session.save(tmp_path / "saved")
        session.rewind(9)
        assert session.given == ()
        session.eval(IDS[9:12])
        session.save(tmp_path / "saved")


def test_states_do_not_go_back_over_them(tmp_path: Path) -> None:
    """Linear attention would evaluate the tokens again, and these are not what was evaluated."""
    _, bundle = make("qwen3_5", tmp_path)
    rows = np.random.default_rng(1).standard_normal((12, 64)).astype(np.float32)
    with Session(bundle, F32) as session:
        session.eval(IDS[:9])
        session.eval_embeddings(rows, [7] * 12)
        want = session.logits(IDS[21:40])
        session.rewind(25)  # from the copy where the text behind the picture begins
        assert np.array_equal(session.logits(IDS[25:40]), want[4:])
        with pytest.raises(RuntimeFailure, match="given embeddings"):
            session.rewind(15)
        session.reset()
        session.eval(IDS[:9])
        session.eval_embeddings(rows, [7] * 12)
        assert np.array_equal(session.logits(IDS[21:40]), want)


def test_any_budget_gives_the_same(tmp_path: Path) -> None:
    _, bundle = make("llama", tmp_path)
    rows = np.random.default_rng(1).standard_normal((30, 64)).astype(np.float32)
    texts = []
    for more in (None, 0, 40_000):
        plan = plan_bundle(bundle, F32)
        ram = None if more is None else plan.floor_bytes + more
        with Session(bundle, Options(cache_type="f32", context=64, ram=ram)) as session:
            session.eval(IDS[:9])
            session.eval_embeddings(rows, [7] * 30)
            texts.append([session.next(GREEDY) for _ in range(8)])
            assert ram is None or session.stats.peak_memory_bytes <= ram
    assert texts[0] == texts[1] == texts[2]


def test_what_is_refused(tmp_path: Path) -> None:
    _, bundle = make("llama", tmp_path)
    rows = np.zeros((12, 64), dtype=np.float32)
    with Session(bundle, Options(cache_type="f32", context=64, batch=8)) as session:

        def refused(given: np.ndarray, tokens: list[int], both: bool, match: str, kind: type[EdgekitError]) -> None:
            with pytest.raises(kind, match=match):
                session.eval_embeddings(given, tokens, both)
            assert session.position == 0

        refused(rows[:, :60], [7] * 12, False, "shape", RuntimeFailure)
        refused(rows, [7] * 11, False, "shape", RuntimeFailure)
        refused(rows, [199] * 12, False, "vocabulary|range", RuntimeFailure)
        refused(rows, [7] * 12, True, "max_batch", RuntimeFailure)
        refused(rows[:0], [], False, "no tokens", RuntimeFailure)
        refused(np.full((12, 64), np.nan, dtype=np.float32), [7] * 12, False, "not finite", RuntimeFailure)
        refused(np.zeros((65, 64), dtype=np.float32), [7] * 65, False, "no room", ContextFullError)
