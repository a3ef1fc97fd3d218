"""Sessions that advance in one pass: each gets the bits that it gets alone, and the weights are read once for all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.codecs import make_codec
from edgekit.conversion import convert
from edgekit.errors import BundleError, ContextFullError, RuntimeFailure
from edgekit.recipe import Recipe, Rule
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.together import advance_together
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import DEMO

GREEDY = Sampling(temperature=0)
VOCAB = 199  # of the tiny models
Step = tuple[int, float, tuple[tuple[int, float], ...]]

# Windows, learned positions, convolutions, experts (shared, biased, everywhere), parallel blocks, projections, sinks.
FAMILIES: dict[str, str | Recipe] = {
    "llama": "q4", "llama_relu": "palette4", "gemma3": "q4", "mistral": "f32", "opt_post_norm_projected": "f16",
    "gpt2": "q8", "gpt_neox": "q4", "cohere2": "f16", "mixtral": "q4", "qwen2_moe": "palette3", "gpt_oss": "f16",
    "lfm2": "q4", "lfm2_moe": "f16", "granite": "q4", "llama_dynamic": "q4", "bitnet": "q4",
    "qwen3_next": "f16", "qwen3_5": "q4", "gemma4": "q4",
    "qwen2": Recipe("trellis", (Rule("*", make_codec("trellis", 3)),)),
    "qwen3_moe": Recipe("scaled", (Rule("*", make_codec("scaled_palette", 4)),)),
}  # fmt: skip


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles that were made already, by name."""
    return {}


def bundle_of(name: str, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if name not in bundles:
        folder = tmp_path_factory.mktemp(name)
        tiny.make(name, folder / "checkpoint")
        (folder / "checkpoint" / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
        bundles[name] = convert(folder / "checkpoint", folder / "bundle", FAMILIES[name]).path
    return bundles[name]


def prompts(count: int) -> list[list[int]]:
    """Prompts of different lengths."""
    random = np.random.default_rng(3)
    return [random.integers(3, VOCAB, 1 + 5 * i % 23).tolist() for i in range(count)]


def choose(session: Session) -> Step:
    """The next token, and the logarithms of all probabilities, which show every bit of the logits."""
    token = session.next(GREEDY)
    chosen, best = session.logprobs(session.vocab_size)
    return token, chosen, tuple(best)


def alone(model: Model, prompt: list[int], steps: int) -> list[Step]:
    with model.create_session() as session:
        session.eval(prompt)
        return [choose(session) for _ in range(steps)]


def together(model: Model, given: list[list[int]], steps: int) -> list[list[Step]]:
    sessions = [model.create_session() for _ in given]
    for session, prompt in zip(sessions, given, strict=True):
        session.eval(prompt)
    out: list[list[Step]] = [[] for _ in given]
    for _ in range(steps):
        assert advance_together(sessions) == [None] * len(sessions)
        for session, steps_of in zip(sessions, out, strict=True):
            steps_of.append(choose(session))
    for session in sessions:
        session.close()
    return out


@pytest.mark.parametrize("name", FAMILIES)
def test_sessions_of_any_length_get_the_bits_they_get_alone(
    name: str, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = bundle_of(name, bundles, tmp_path_factory)
    for count, options in ((2, {}), (5, {"cache_type": "f32"}), (16, {"activations": "int8"})):
        given = prompts(count)
        with Model(bundle, Options(context=64, sessions=count, select="all", **options)) as model:  # type: ignore[arg-type]
            want = [alone(model, prompt, 8) for prompt in given]
        with Model(bundle, Options(context=64, sessions=count, select="all", **options)) as model:  # type: ignore[arg-type]
            assert together(model, given, 8) == want


@pytest.mark.parametrize(
    ("name", "select"),
    [(n, "all") for n in ("llama", "gemma3", "mixtral", "lfm2_moe", "qwen3_5", "gemma4")]
    + [(n, "router") for n in ("mixtral", "qwen2_moe", "lfm2_moe", "gpt_oss", "qwen3_next")],
)
def test_streamed_sessions_get_the_bits_they_get_alone(
    name: str, select: str, bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = bundle_of(name, bundles, tmp_path_factory)
    given = prompts(5)
    options = Options(context=64, sessions=5, select=select, batch=5)
    plan = plan_bundle(bundle, options)
    with Model(bundle, options) as model:
        want = [alone(model, prompt, 8) for prompt in given]
    ram = plan.floor_bytes + plan.weight_bytes // 3
    with Model(bundle, Options(ram=ram, context=64, sessions=5, select=select, batch=5)) as model:
        assert model.plan.resident_bytes < model.plan.weight_bytes
        assert model.plan.max_batch == 5
        assert together(model, given, 8) == want


def read_by_passes(model: Model, count: int, passes: int) -> int:
    """Bytes that so many sessions read in passes that they share."""
    sessions = [model.create_session() for _ in range(count)]
    for session, prompt in zip(sessions, prompts(count), strict=True):
        session.eval(prompt)
        session.next(GREEDY)
    advance_together(sessions)  # what the last prompt's pass read ahead is behind it
    begin = sessions[0].stats.bytes_read
    for _ in range(passes):
        for session in sessions:
            session.next(GREEDY)
        assert advance_together(sessions) == [None] * count
    read = sessions[0].stats.bytes_read - begin
    shares = sum(session.stats.generation_bytes_read for session in sessions)
    for session in sessions:
        session.close()
    assert shares >= read
    return read


def test_many_conversations_read_what_one_reads(tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "demo", "f16").path
    options = Options(context=64, sessions=8, select="all")
    plan = plan_bundle(bundle, options)
    small = Options(ram=plan.floor_bytes + plan.weight_bytes // 3, context=64, sessions=8, select="all", batch=8)
    with Model(bundle, small) as model:
        assert model.plan.streamed_bytes > 0
        one = read_by_passes(model, 1, 6)
        assert one > 5 * model.plan.streamed_bytes
        assert read_by_passes(model, 8, 6) <= one * 1.01


def test_a_full_session_leaves_the_others_alone(
    bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = bundle_of("llama", bundles, tmp_path_factory)
    with Model(bundle, Options(context=32, sessions=3)) as model:
        want = alone(model, [5, 6, 7], 4)
        sessions = [model.create_session() for _ in range(3)]
        for session, prompt in zip(sessions, ([5, 6, 7], list(range(3, 35)), [5, 6, 7]), strict=True):
            session.eval(prompt)
            session.next(GREEDY)
        errors = advance_together(sessions)
        assert [errors[0], errors[2]] == [None, None]
        assert isinstance(errors[1], ContextFullError)
        assert sessions[1].position == 32
        for session in (sessions[0], sessions[2]):
            assert [choose(session) for _ in range(3)] == want[1:]


def test_a_cancelled_session_may_go_on_and_the_others_do(
    bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = bundle_of("gemma3", bundles, tmp_path_factory)
    with Model(bundle, Options(context=64, sessions=2)) as model:
        want = alone(model, [5, 6, 7], 4)
        sessions = [model.create_session() for _ in range(2)]
        for session in sessions:
            session.eval([5, 6, 7])
            session.next(GREEDY)
        sessions[0].cancel()
        errors = advance_together(sessions)
        assert "cancelled" in str(errors[0])
        assert errors[1] is None
        assert [s.position for s in sessions] == [3, 4]
        for session in sessions:
            assert [choose(session) for _ in range(3)] == want[1:]


def test_a_damaged_unit_is_the_error_of_all_and_nothing_is_lost(tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "demo", "f16").path
    options = Options(context=64, sessions=2, select="all", io="buffered")
    plan = plan_bundle(bundle, options)
    small = Options(ram=plan.floor_bytes, context=64, sessions=2, select="all", io="buffered", batch=2)
    weights = max(bundle.glob("*.bin"), key=lambda p: p.stat().st_size)
    sound = weights.read_bytes()
    with Model(bundle, small) as model:
        want = alone(model, [5, 6, 7], 3)
        sessions = [model.create_session() for _ in range(2)]
        for session in sessions:
            session.eval([5, 6, 7])
            session.next(GREEDY)
        with weights.open("r+b") as file:
            file.write(bytes(len(sound)))
        assert [type(e) for e in advance_together(sessions)] == [BundleError, BundleError]
        assert [s.position for s in sessions] == [3, 3]
        with weights.open("r+b") as file:
            file.write(sound)
        assert advance_together(sessions) == [None, None]
        for session in sessions:
            assert [choose(session) for _ in range(2)] == want[1:]


def test_selections_of_neurons_advance_one_by_one(tmp_path: Path) -> None:
    tiny.make("llama_relu", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q4", layout="split").path
    options = Options(context=64, sessions=3, select="exact")
    with Model(bundle, options) as model:
        want = [alone(model, prompt, 5) for prompt in prompts(3)]
        assert together(model, prompts(3), 5) == want


def test_sessions_with_drafts_advance_one_by_one(tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "demo", "q4").path
    with Model(bundle, Options(context=64, sessions=2, draft_tokens=4)) as model:
        want = [[s[0] for s in alone(model, prompt, 9)] for prompt in prompts(2)]
        assert [[s[0] for s in steps] for steps in together(model, prompts(2), 9)] == want


def test_passes_are_split_where_the_batch_is_small(
    bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = bundle_of("llama", bundles, tmp_path_factory)
    with Model(bundle, Options(context=64, sessions=5, batch=2)) as model:
        want = [alone(model, prompt, 5) for prompt in prompts(5)]
        assert together(model, prompts(5), 5) == want


def test_the_same_session_twice_or_another_model_is_refused(
    bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = bundle_of("llama", bundles, tmp_path_factory)
    with Model(bundle, Options(context=64, sessions=2)) as model, Session(bundle, Options(context=64)) as other:
        session = model.create_session()
        for given in ([session, session], [session, other]):
            with pytest.raises(RuntimeFailure, match="different ones of one model"):
                advance_together(given)
        assert advance_together([]) == []
        session.close()
        with pytest.raises(RuntimeFailure, match="closed"):
            advance_together([session])
