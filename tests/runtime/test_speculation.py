"""Speculative decoding: the text of sampling token by token, in fewer passes; wrong guesses leave no trace."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli, main
from edgekit.conversion import convert
from edgekit.errors import BudgetError, BundleError, RuntimeFailure
from edgekit.generate.loop import TextModel
from edgekit.generate.speculate import open_with_draft
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=0.8, seed=11)
PROMPT = "Once upon a time, there was a little girl. The little girl"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("large") / "f16", "f16").path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("small") / "palette3", "palette3").path


def half(bundle: Path, **options: object) -> Options:
    """A budget under which most weights are streamed."""
    free = Options(context=160, select="all", **options)  # type: ignore[arg-type]
    plan = plan_bundle(bundle, free)
    return Options(ram=plan.floor_bytes + plan.weight_bytes // 2, context=160, select="all", **options)  # type: ignore[arg-type]


def text(model: TextModel, sampling: Sampling, tokens: int = 80) -> list[int]:
    return [p.token for p in model.generate(PROMPT, tokens, sampling, ignore_eos=True)]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_guesses_from_the_text_change_only_the_number_of_passes(large: Path, sampling: Sampling) -> None:
    with TextModel(large, half(large)) as model:
        want = text(model, sampling)
        read = model.stats.generation_bytes_read
    with TextModel(large, half(large, draft_tokens=6)) as model:
        assert text(model, sampling) == want
        s = model.stats
        assert 0 < s.accepted_tokens <= s.drafted_tokens
        assert s.generated_tokens == len(want) - 1  # the last is not evaluated
        assert s.generation_bytes_read < read
        assert s.peak_memory_bytes <= model.plan.budget_bytes


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
def test_a_draft_model_saves_most_reads_within_one_budget(large: Path, small: Path, sampling: Sampling) -> None:
    options = half(large)
    with TextModel(large, options) as model:
        want = text(model, sampling)
        read = model.stats.generation_bytes_read
    with open_with_draft(large, small, options) as model:
        assert text(model, sampling) == want
        assert text(model, sampling) == want  # the draft session follows the second text too
        s, session = model.stats, model.session
        assert isinstance(session, Session)
        assert session.draft is not None
        assert s.accepted_tokens > 0.3 * s.drafted_tokens
        peaks = s.peak_memory_bytes + session.draft.stats.peak_memory_bytes
        assert peaks <= int(options.ram or 0)
        if sampling is GREEDY:
            assert s.generation_bytes_read / 2 < read


def test_wrong_guesses_leave_no_trace(large: Path) -> None:
    with Session(large, Options(context=64, draft_tokens=4)) as session, Session(large, Options(context=64)) as plain:
        ids = [5, 6, 7, 8]
        session.eval(ids)
        plain.eval(ids)
        token = session.sample(GREEDY)
        plain.eval([token])
        right = plain.sample(GREEDY)
        wrong = (right + 1) % session.vocab_size
        assert session.verify([token, wrong, 3, 4], GREEDY) == (1, right)
        assert session.position == plain.position == 5
        assert session.tokens == [*ids, token]
        assert session.sample(GREEDY) == right  # the logits are those behind what was kept
        assert (session.stats.drafted_tokens, session.stats.accepted_tokens) == (3, 0)
        again, expected = session.logits([9, 10]), plain.logits([9, 10])
        assert np.abs(again - expected).max() <= 2e-3 * np.abs(expected).max()  # sums of several tokens, f16 cache


def test_guesses_continue_what_was_said_before(large: Path) -> None:
    with Session(large, Options(context=64, draft_tokens=8)) as session:
        session.eval([3, 4, 5, 6, 7, 8, 3, 4])
        assert session.guess(5)[:3] == [6, 7, 8]
        assert session.guess(1999) == []
        session.eval([9] * 54)
        assert session.guess(3) == [4]  # there is room for one more behind it


def test_experts_are_checked_in_one_pass_too(tmp_path: Path) -> None:
    tiny.make("mixtral", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    ids = np.random.default_rng(0).integers(3, 199, 8).tolist()
    with Session(bundle, Options(context=64, cache_type="f32")) as plain:
        plain.eval(ids)
        want = []
        for _ in range(20):
            want.append(plain.sample(GREEDY))
            plain.eval(want[-1:])
    floor = plan_bundle(bundle, Options(context=64, batch=8, draft_tokens=4, cache_type="f32")).floor_bytes
    with Session(bundle, Options(ram=floor + 8192, context=64, batch=8, draft_tokens=4, cache_type="f32")) as session:
        session.eval(ids)
        token, got = session.sample(GREEDY), []
        while len(got) < 20:
            guesses = want[len(got) + 1 :][:3]
            kept, following = session.verify([token, *guesses], GREEDY)
            got += [token, *guesses[: kept - 1]]
            token = following
        assert got[:20] == want
        assert session.stats.accepted_tokens > 10


def test_what_takes_no_drafts_says_so(large: Path, tmp_path: Path) -> None:
    with Session(large, Options(context=32)) as session:
        session.eval([3])
        with pytest.raises(RuntimeFailure, match="not opened with draft_tokens"):
            session.guess(4)
    with pytest.raises(RuntimeFailure, match="draft_tokens is out of range"):
        Session(large, Options(context=32, draft_tokens=65))
    tiny.make("llama_relu", tmp_path / "checkpoint")
    sparse = convert(tmp_path / "checkpoint", tmp_path / "sparse", "q8", layout="split").path
    floor = plan_bundle(sparse, Options(context=32, select="exact", draft_tokens=4)).floor_bytes
    with Session(sparse, Options(ram=floor, context=32, select="exact", draft_tokens=4)) as session:
        session.eval([3])
        with pytest.raises(RuntimeFailure, match="open with the selection 'all'"):
            session.guess(4)
    with (
        Session(large, Options(context=32, draft_tokens=4)) as session,
        Session(sparse, Options(context=32)) as other,
        pytest.raises(RuntimeFailure, match="vocabulary"),
    ):
        session.draft_with(other)


def test_draft_models_must_fit_and_share_the_tokenizer(large: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="does not hold the draft model"):
        open_with_draft(large, small, Options(ram="1M", context=64))
    with pytest.raises(BudgetError):  # it fits, and leaves too little
        open_with_draft(large, small, Options(ram=plan_bundle(small, Options(context=64)).budget_bytes + 1, context=64))
    with pytest.raises(BundleError, match="checkpoint"):
        open_with_draft(large, DEMO, Options(context=64))
    other = tmp_path / "other.edgekit"
    shutil.copytree(small, other)
    (other / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(RuntimeFailure, match="must have the same"):
        open_with_draft(large, other, Options(context=64))


def test_a_draft_that_ends_earlier_stops_guessing(large: Path, small: Path) -> None:
    with open_with_draft(large, small, Options(context=96, select="all", draft_tokens=2)) as model:
        session = model.session
        assert isinstance(session, Session)
        session.draft_with(Session(small, Options(context=24)))
        got = text(model, GREEDY, 60)
        assert 0 < session.stats.drafted_tokens < 40
    with TextModel(large, Options(context=96, select="all")) as model:
        assert text(model, GREEDY, 60) == got


def test_run_reports_what_was_guessed(large: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", str(large), "-p", PROMPT, "-n", "30", "--temp", "0"]
    plain = CliRunner().invoke(cli, [*run, "-q"])
    drafted = CliRunner().invoke(cli, [*run, "-md", str(small), "--draft-max", "4"])
    assert drafted.exit_code == 0, drafted.output
    assert plain.output.strip() in drafted.output
    assert "guessed tokens were right" in drafted.output
    assert main([*run, "--draft", "4", "--backend", "onnx"]) == 2
    assert "native backend" in capsys.readouterr().err
