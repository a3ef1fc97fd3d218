"""Speculative decoding: the text of sampling token by token, in fewer passes, wherever it ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli, main
from edgekit.conversion import convert
from edgekit.errors import BudgetError, BundleError, ContextFullError, RuntimeFailure
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
def test_drafts_from_the_text_change_only_the_number_of_passes(large: Path, sampling: Sampling) -> None:
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


def stepped(session: Session, ids: list[int], count: int, sampling: Sampling) -> list[int]:
    """Tokens that follow `ids`."""
    session.reset()
    session.eval(ids)
    return [session.next(sampling) for _ in range(count)]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "warm"])
@pytest.mark.parametrize("drafting", ["text", "model"])
def test_a_text_may_end_within_accepted_drafts(
    large: Path, small: Path, tmp_path: Path, sampling: Sampling, drafting: str
) -> None:
    ids = [3, 4, 5, 6, 7, 8, 3, 4]
    with (
        Session(large, Options(context=96, select="all")) as plain,
        Session(large, Options(context=96, draft_tokens=6, select="all")) as session,
    ):
        if drafting == "model":
            session.draft_with(Session(small, Options(context=96)))
        want = stepped(plain, ids, 24, sampling)
        for count in range(1, 25):
            assert stepped(session, ids, count, sampling) == want[:count]
            assert session.position == len(ids) + count - 1
            assert session.tokens == [*ids, *want[: count - 1]]
        if drafting == "model" or sampling is GREEDY:  # chance seldom repeats the text
            assert session.stats.accepted_tokens > 0
        for count in (5, 17, 18, 19, 20):  # what comes then is as without drafts
            for then in ("eval", "rewind", "save"):
                stepped(session, ids, count, sampling)
                text = [*ids, *want[: count - 1]]
                if then == "rewind":
                    session.rewind(len(text) - 2)
                    del text[-2:]
                elif then == "save":
                    session.save(tmp_path / "saved")
                    session.reset()
                    session.restore(tmp_path / "saved")
                got = session.logits([9])[0]
                assert session.tokens == [*text, 9]
                plain.reset()
                expected = plain.logits([*text, 9])[-1]
                assert np.abs(got - expected).max() <= 4e-3 * np.abs(expected).max()  # sums of several tokens, f16


def test_counters_are_of_the_text_wherever_it_ends(large: Path) -> None:
    with Session(large, Options(context=96, draft_tokens=6, select="all")) as session:
        ids, begun = [3, 4, 5, 6, 7, 8, 3, 4], 0
        for count in (1, 2, 9, 30):
            stepped(session, ids, count, GREEDY)
            s = session.stats
            assert s.generated_tokens - begun == count - 1
            assert s.accepted_tokens <= s.drafted_tokens
            begun = s.generated_tokens


def test_drafts_stop_where_the_context_does(large: Path) -> None:
    with Session(large, Options(context=20, draft_tokens=8)) as session, Session(large, Options(context=20)) as plain:
        for one in (session, plain):
            one.eval([3, 4, 5, 6, 7, 8, 3, 4])
        texts = []
        for one in (session, plain):
            texts.append([one.next(GREEDY) for _ in range(20 - 8 + 1)])
            for _ in range(2):
                with pytest.raises(ContextFullError):
                    one.next(GREEDY)
        assert texts[0] == texts[1]
        assert session.position == 20


def test_experts_are_drafted_too(tmp_path: Path) -> None:
    tiny.make("mixtral", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    ids = [3, 4, 5, 6, 7, 8, 3, 4]
    options = Options(context=100, batch=8, cache_type="f32")
    with Session(bundle, options) as plain:
        want = stepped(plain, ids, 80, GREEDY)
    options = Options(context=100, batch=8, cache_type="f32", draft_tokens=4)
    options = Options(
        ram=plan_bundle(bundle, options).floor_bytes + 8192, context=100, batch=8, cache_type="f32", draft_tokens=4
    )
    with Session(bundle, options) as session:
        assert stepped(session, ids, 80, GREEDY) == want
        assert session.stats.drafted_tokens > 0


def test_what_takes_no_drafts_says_so(large: Path, tmp_path: Path) -> None:
    with (
        Session(large, Options(context=32)) as session,
        Session(large, Options(context=32)) as other,
        pytest.raises(RuntimeFailure, match="not opened with draft_tokens"),
    ):
        session.draft_with(other)
    with pytest.raises(RuntimeFailure, match="draft_tokens is out of range"):
        Session(large, Options(context=32, draft_tokens=65))
    tiny.make("llama_relu", tmp_path / "checkpoint")
    sparse = convert(tmp_path / "checkpoint", tmp_path / "sparse", "q8", layout="split").path
    with pytest.raises(RuntimeFailure, match="open with the selection 'all'"):
        Session(sparse, Options(context=32, select="exact", draft_tokens=4))
    with Session(large, Options(context=32, draft_tokens=4)) as session:
        with Session(sparse, Options(context=32)) as other, pytest.raises(RuntimeFailure, match="vocabulary"):
            session.draft_with(other)
        with pytest.raises(RuntimeFailure, match="vocabulary"):
            session.draft_with(session)


def test_a_session_drafts_for_one_other(large: Path, small: Path) -> None:
    options = Options(context=64, draft_tokens=4)
    with Session(large, options) as one, Session(large, options) as two, Session(small) as draft:
        one.draft_with(draft)
        with pytest.raises(RuntimeFailure, match="drafts for another one"):
            two.draft_with(draft)
        one.eval([3, 4])
        draft.close()
        with pytest.raises(RuntimeFailure, match="draft session is closed"):
            one.next(GREEDY)
        one.draft_with(None)
        assert one.next(GREEDY) >= 0


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


def test_a_draft_session_with_a_shorter_context_stops_drafting(large: Path, small: Path) -> None:
    with open_with_draft(large, small, Options(context=96, select="all", draft_tokens=2)) as model:
        session = model.session
        assert isinstance(session, Session)
        session.draft_with(Session(small, Options(context=24)))
        got = text(model, GREEDY, 60)
        assert 0 < session.stats.drafted_tokens < 40
    with TextModel(large, Options(context=96, select="all")) as model:
        assert text(model, GREEDY, 60) == got


def test_run_reports_what_was_drafted(large: Path, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", str(large), "-p", PROMPT, "-n", "30", "--temp", "0"]
    plain = CliRunner().invoke(cli, [*run, "-q"])
    drafted = CliRunner().invoke(cli, [*run, "-md", str(small), "--draft-max", "4"])
    assert drafted.exit_code == 0, drafted.output
    assert plain.output.strip() in drafted.output
    assert "drafted tokens became text" in drafted.output
    assert main([*run, "--draft", "4", "--backend", "onnx"]) == 2
    assert "native backend" in capsys.readouterr().err
