"""The Python interface: streaming, stopping, cancelling, closing."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.errors import BudgetError, RuntimeFailure
from edgekit.generate.tokenizer import Stream, Tokenizer
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import DEMO


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgekit.convert(DEMO, tmp_path_factory.mktemp("generate") / "demo", recipe="q8").path


def test_logits_have_the_promised_shape(bundle: Path) -> None:
    with edgekit.load(bundle, ram="2M") as model:
        logits = model.logits([1, 403, 407])
    assert logits.shape == (3, 2048)
    assert logits.dtype == np.float32


def test_generation_streams_and_can_be_abandoned(bundle: Path) -> None:
    with edgekit.load(bundle) as model:
        pieces = model.generate("Once upon a time", 50, Sampling(temperature=0))
        first = next(pieces)
        pieces.close()
        again = list(model.generate("Once upon a time", 3, Sampling(temperature=0)))
    assert again[0] == first
    assert len(again) == 3


@pytest.mark.parametrize("drafts", [0, 4])
def test_no_more_tokens_than_asked_for(bundle: Path, drafts: int) -> None:
    with edgekit.load(bundle, context=64, draft_tokens=drafts) as model:
        for most in (0, 1, 7):
            tokens = [
                p.token for p in model.generate("Once upon a time", most, Sampling(temperature=0)) if p.token >= 0
            ]
            assert len(tokens) == most
            assert model.finish_reason == "length"
            assert model.stats.prompt_tokens > 0


def test_long_prompts_are_read_in_pieces_with_progress(bundle: Path) -> None:
    ids = [1, *range(3, 131)]  # one token more than a batch: no piece is a single token
    with edgekit.load(bundle, batch=64) as model:
        seen: list[tuple[int, int]] = []
        next(model.generate(ids, 1, Sampling(temperature=0), progress=lambda done, total: seen.append((done, total))))
        assert seen == [(64, 129), (127, 129), (129, 129)]
        assert model.stats.prompt_tokens == 129


def test_context_end_is_a_finish_not_an_error(bundle: Path) -> None:
    with edgekit.load(bundle, context=16) as model:
        tokens = [p.token for p in model.generate("Once upon a time", 100, ignore_eos=True) if p.token >= 0]
        assert model.finish_reason == "context"
        assert len(tokens) == 16 - 5 + 1
        with pytest.raises(RuntimeFailure, match="context of 16"):
            model.logits(list(range(17)))


def evaluate_for_ever(session: Session) -> None:
    for _ in range(100_000):
        session.eval(list(range(3, 103)))
        session.rewind(0)  # a reset would forget a cancellation that comes between two evaluations


def test_cancel_from_another_thread_ends_an_evaluation(tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    bundle = edgekit.convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe="f32").path
    with Session(bundle, Options(kernels="portable")) as session:
        timer = threading.Timer(0.2, session.cancel)
        timer.start()
        with pytest.raises(RuntimeFailure, match="cancelled"):
            evaluate_for_ever(session)
        timer.join()
        session.reset()
        session.eval([3])


def test_closed_models_say_so(bundle: Path) -> None:
    model = edgekit.load(bundle)
    model.close()
    model.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        model.logits([1])


def test_sessions_over_budget_are_refused(bundle: Path) -> None:
    with pytest.raises(BudgetError, match="needs at least"):
        edgekit.load(bundle, ram=1000)


def test_streamed_text_is_the_whole_text() -> None:
    tokenizer = Tokenizer(DEMO)
    text = "Zwölf Boxkämpfer, 日本語 and 🦊🦊 — and a very long tail " + "so that the window moves on, " * 10
    ids = tokenizer.encode("A prompt. ") + tokenizer.encode(text)
    prompt = len(tokenizer.encode("A prompt. "))
    stream = Stream(tokenizer, ids[:prompt])
    assert "".join(stream.push(i) for i in ids[prompt:]) == text
