"""What a KV cache keeps: as a mask in the NumPy reference has it, in less memory, and always with the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.reference import Reference
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.together import advance_together
from edgekit.runtime.values import Options, Sampling
from tests import encoders, tiny
from tests.conftest import DEMO

IDS = np.random.default_rng(5).integers(3, 199, 120).tolist()
GREEDY = Sampling(temperature=0)
SINKS, WINDOW = 4, 20
POLICY = {"kv_policy": "sinks", "kv_sinks": SINKS, "kv_window": WINDOW, "context": 128, "threads": 2}


def options(**more: object) -> Options:
    return Options(**{**POLICY, **more})  # type: ignore[arg-type]


# gemma3 has layers with windows of their own beside full ones, gpt_oss learned sinks, opt no rope, gemma4 shared keys.
@pytest.fixture(scope="module", params=["llama", "gemma3", "gpt_oss", "opt_wide", "gemma4"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.make(request.param, folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "f32").path


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    tiny.make("llama", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "f32").path


@pytest.mark.parametrize(("sinks", "window"), [(4, 20), (0, 17), (40, 1), (1, 64), (33, 50)])
def test_it_is_a_mask_of_the_reference(bundle: Path, sinks: int, window: int) -> None:
    """Sums in f32 beside sums in f64 over a few layers: 1e-4 of the largest logit, as for whole models."""
    want = Reference(bundle, sinks, window).logits(IDS)
    chosen = options(kv_sinks=sinks, kv_window=window, cache_type="f32", batch=16)
    with Session(bundle, chosen) as session:
        got = np.concatenate([session.logits(IDS[:100]), *(session.logits([i]) for i in IDS[100:])])
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    full = Reference(bundle).logits(IDS)
    assert np.abs(got - full).max() > 1e-3 * np.abs(full).max()  # the policy is not nothing


def test_a_text_that_the_window_holds_is_as_with_everything(llama: Path) -> None:
    with Session(llama, options(kv_window=126, cache_type="f32")) as session:
        got = session.logits(IDS)
    with Session(llama, Options(context=128, cache_type="f32")) as session:
        want = session.logits(IDS)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())  # sinks are summed apart


@pytest.mark.parametrize("cache_type", ["f16", "q8", "q4"])
def test_tokens_have_the_same_bits_however_they_are_reached(llama: Path, cache_type: str, tmp_path: Path) -> None:
    chosen = options(cache_type=cache_type, sessions=2, batch=40)
    with Model(llama, chosen) as model, Session(model) as session, Session(model) as other:
        want = np.concatenate([session.logits([i]) for i in IDS])
        for batch in (7, 40):
            session.reset()
            got = [session.logits(IDS[i : i + batch]) for i in range(0, len(IDS), batch)]
            np.testing.assert_array_equal(np.concatenate(got), want)
        session.rewind(100)  # no further back than a window always allows
        np.testing.assert_array_equal(session.logits(IDS[100:]), want[100:])
        other.copy_from(session, 110)
        np.testing.assert_array_equal(other.logits(IDS[110:]), want[110:])
        for count in (3, 20, 30, 110):  # within the sinks, within the window, beyond it
            session.reset()
            session.eval(IDS[:count])
            session.save(tmp_path / "saved")
            other.eval(IDS[:1]) if other.position < 120 else other.reset()
            other.restore(tmp_path / "saved")
            assert other.tokens == IDS[:count]
            np.testing.assert_array_equal(other.logits(IDS[count:]), want[count:])
        session.reset()
        session.eval(IDS)
        with pytest.raises(RuntimeFailure, match="can go back to token"):
            session.rewind(40)


def test_sessions_together_and_drafts_write_the_same(llama: Path) -> None:
    prompts = [IDS[:50], IDS[20:60]]
    alone = []
    for prompt in prompts:
        with Session(llama, options()) as session:
            session.eval(prompt)
            alone.append([session.next(GREEDY) for _ in range(40)])
    with Model(llama, options(sessions=2)) as model:
        both = [Session(model) for _ in prompts]
        for session, prompt in zip(both, prompts, strict=True):
            session.eval(prompt)
        written: list[list[int]] = [[], []]
        for _ in range(40):
            assert advance_together(both) == [None, None]
            for session, out in zip(both, written, strict=True):
                out.append(session.next(GREEDY))
        for session in both:
            session.close()
    assert written == alone
    with Session(llama, options(draft_tokens=8)) as session:
        session.eval(prompts[0])
        assert [session.next(GREEDY) for _ in range(40)] == alone[0]
        assert session.stats.drafted_tokens > 0


def test_memory_is_that_of_the_window(llama: Path) -> None:
    sizes = {}
    for context in (64, 128):
        for kind in ("full", "sinks"):
            policy = {"kv_policy": kind, "kv_window": 8} if kind == "sinks" else {}
            sizes[kind, context] = plan_bundle(llama, Options(context=context, batch=8, **policy))  # type: ignore[arg-type]
    assert sizes["sinks", 64].kv_bytes == sizes["sinks", 128].kv_bytes < sizes["full", 64].kv_bytes
    floors = {key: plan.floor_bytes for key, plan in sizes.items()}
    assert floors["sinks", 128] < floors["full", 128]
    with Session(llama, Options(context=128, batch=8, kv_policy="sinks", kv_window=8)) as session:
        session.eval(IDS)
        assert session.stats.peak_memory_bytes < sizes["full", 128].budget_bytes
        tight = floors["sinks", 128]
    with Session(llama, Options(context=128, batch=8, kv_policy="sinks", kv_window=8, ram=tight)) as session:
        session.eval(IDS)
        assert session.stats.peak_memory_bytes <= tight


def test_files_of_another_policy_are_refused(llama: Path, tmp_path: Path) -> None:
    with Session(llama, options()) as session:
        session.eval(IDS)
        session.save(tmp_path / "saved")
    for other in (options(kv_sinks=5), options(kv_window=21), Options(context=128)):
        with Session(llama, other) as session:
            with pytest.raises(RuntimeFailure, match="another KV policy"):
                session.restore(tmp_path / "saved")
            assert session.position == 0


@pytest.mark.parametrize("name", ["lfm2", "qwen3_5", "bert"])
def test_models_that_take_none_say_so(name: str, tmp_path: Path) -> None:
    (encoders if name == "bert" else tiny).make(name, tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    with pytest.raises(RuntimeFailure, match="KV policy"):
        Session(bundle, Options(kv_policy="sinks"))


def test_options_are_checked(llama: Path) -> None:
    with pytest.raises(RuntimeFailure, match="it is one of full, sinks"):
        Session(llama, Options(kv_policy="some"))
    with pytest.raises(RuntimeFailure, match="the policy is 'full'"):
        Session(llama, Options(kv_window=8))
    with pytest.raises(RuntimeFailure, match="out of range"):
        Session(llama, Options(kv_policy="sinks", kv_window=-1))
    with pytest.raises(RuntimeFailure, match="out of range"):
        Session(llama, Options(kv_policy="sinks", kv_window=(1 << 31) - 1))


def test_commands_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = convert(DEMO, tmp_path / "demo", "q4").path
    assert main(["run", str(bundle), "-p", "a", "--kv-window", "8"]) == 2
    assert "--kv-policy sinks" in capsys.readouterr().err
    policy = ["--kv-policy", "sinks", "--kv-window", "16", "--kv-sinks", "2"]
    assert main(["run", str(bundle), "-p", "Once upon a time", "-n", "40", "--temp", "0", "-q", *policy]) == 0
    first = capsys.readouterr().out
    assert main(["run", str(bundle), "-p", "Once upon a time", "-n", "40", "--temp", "0", "-q"]) == 0
    assert capsys.readouterr().out != first
    (tmp_path / "text").write_text("Once upon a time there was a cat who liked to play in the sun all day long. " * 5)
    assert main(["eval", str(bundle), "--text", str(tmp_path / "text"), "--json", *policy]) == 0
