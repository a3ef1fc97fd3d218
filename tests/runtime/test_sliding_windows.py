"""Layers with a sliding window keep a ring: the same logits, less memory, and a clear limit to going back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.generate.loop import TextModel
from edgekit.reference import Reference
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import ROOT

IDS = np.random.default_rng(7).integers(3, 199, 124).tolist()
GREEDY = Sampling(temperature=0)
WINDOW, ROOM = 9, 32  # of the tiny models; kRewindRoom of the runtime


@pytest.fixture(scope="module", params=["gemma3", "mistral", "gemma4"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A bundle and what transformers computes for IDS."""
    folder = tmp_path_factory.mktemp(request.param)
    oracle = tiny.make(request.param, folder / "checkpoint")
    (folder / "checkpoint" / "tokenizer.json").write_bytes(
        (ROOT / "examples" / "demo_model" / "checkpoint" / "tokenizer.json").read_bytes()
    )
    with torch.no_grad():
        want = oracle(torch.tensor([IDS])).logits[0].numpy()
    return convert(folder / "checkpoint", folder / "bundle", "f32").path, want


def half(bundle: Path) -> float:
    """What f16 keys may change; Gemma 4 does not scale its scores down, so that their rounding shows."""
    return 2e-2 if manifest.read(bundle).data["model"]["model_type"] == "gemma4_text" else 5e-3


def difference(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("batch", [1, 4, 9, 50])
@pytest.mark.parametrize("cache_type", ["f32", "f16"])
def test_long_texts_match_transformers_and_the_reference(
    model: tuple[Path, np.ndarray], batch: int, cache_type: str
) -> None:
    bundle, want = model
    tolerance = 1e-4 if cache_type == "f32" else half(bundle)
    with Session(bundle, Options(context=128, batch=batch, cache_type=cache_type)) as session:
        got = np.concatenate([session.logits(IDS[:101])] + [session.logits([i]) for i in IDS[101:]])
    assert difference(got, want) <= tolerance
    assert difference(got, Reference(bundle).logits(IDS)) <= tolerance


def test_rejected_drafts_leave_what_the_window_needs(model: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    bundle, _ = model
    tiny.make("llama", tmp_path / "checkpoint")  # of the same vocabulary, with other opinions
    drafter = convert(tmp_path / "checkpoint", tmp_path / "drafter", "f32").path
    alone = Options(context=128, batch=40, select="all", cache_type="f32")
    texts = []
    for options in (alone, dataclasses.replace(alone, draft_tokens=39)):
        with Session(bundle, options) as session:
            if options.draft_tokens:
                session.draft_with(Session(drafter, Options(context=128, select="all")))
            session.eval(IDS[:60])
            texts.append([session.next(GREEDY) for _ in range(60)])
            wrong = session.stats.drafted_tokens - session.stats.accepted_tokens
            assert (wrong > 0) == (options.draft_tokens > 0)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("cache_type", ["f32", "f16"])
def test_saved_sessions_fit_rings_of_other_sizes(
    model: tuple[Path, np.ndarray], cache_type: str, tmp_path: Path
) -> None:
    bundle, want = model
    for saved_with, restored_with in ((50, 1), (1, 50), (4, 4)):
        with Session(bundle, Options(context=128, batch=saved_with, cache_type=cache_type)) as session:
            session.eval(IDS[:90])
            session.rewind(85)
            session.save(tmp_path / "saved")
        with Session(bundle, Options(context=128, batch=restored_with, cache_type=cache_type)) as session:
            session.restore(tmp_path / "saved")
            assert session.tokens == IDS[:85]
            session.rewind(70)
            got = session.logits(IDS[70:])
        assert difference(got, want[70:]) <= (1e-4 if cache_type == "f32" else half(bundle))


def test_going_back_too_far_is_refused_with_the_limit(model: tuple[Path, np.ndarray]) -> None:
    bundle, want = model
    with Session(bundle, Options(context=128, batch=4, cache_type="f32")) as session:
        session.eval(IDS[:100])
        earliest = 100 - ROOM
        with pytest.raises(RuntimeFailure, match=f"go back to token {earliest}, not to {earliest - 1}"):
            session.rewind(earliest - 1)
        assert session.position == 100
        session.rewind(earliest)
        assert difference(session.logits(IDS[earliest:]), want[earliest:]) <= 1e-4
        session.rewind(0)
        assert difference(session.logits(IDS[:30]), want[:30]) <= 1e-4
        session.rewind(5)  # nothing was overwritten since
        assert difference(session.logits(IDS[5:40]), want[5:40]) <= 1e-4


def test_a_prompt_cache_that_cannot_go_back_is_read_afresh(model: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    bundle, _ = model
    options, prompts = Options(context=128, batch=4), (IDS[:100], IDS[:20] + IDS[60:90])
    for prompt in prompts:
        with TextModel(bundle, options) as plain, TextModel(bundle, options) as cached:
            want = [p.token for p in plain.generate(prompt, 5, GREEDY, ignore_eos=True)]
            got = cached.generate(prompt, 5, GREEDY, ignore_eos=True, prompt_cache=tmp_path / "cache")
            assert [p.token for p in got] == want
            assert got.cached_tokens == 0


def test_the_plan_counts_rings(model: tuple[Path, np.ndarray]) -> None:
    bundle, _ = model
    blocks = json.loads((bundle / "manifest.json").read_text())["model"]["blocks"]
    for batch in (1, 50):
        rows = [
            (min(128, WINDOW - 1 + max(batch, ROOM)) if b["window"] else 128) * b["kv_heads"] * b["head_dim"]
            for b in blocks
            if b["kind"] == "attention" and "source" not in b
        ]
        bytes_needed = 2 * 2 * sum(rows)
        plan = plan_bundle(bundle, Options(context=128, batch=batch))
        assert bytes_needed <= plan.kv_bytes < bytes_needed + 4096
        tight = plan_bundle(bundle, Options(context=128, batch=batch)).floor_bytes
        with Session(bundle, Options(context=128, batch=batch, ram=tight)) as session:
            session.eval(IDS)
            assert session.stats.peak_memory_bytes <= tight


@pytest.mark.parametrize("change", ["eps", "window"])
def test_a_session_of_another_computation_is_refused(
    model: tuple[Path, np.ndarray], change: str, tmp_path: Path
) -> None:
    bundle, _ = model
    with Session(bundle, Options(context=128)) as session:
        session.eval(IDS[:10])
        session.save(tmp_path / "saved")
    other = tmp_path / "other.edgekit"
    other.mkdir()
    for file in bundle.iterdir():
        if file.name != "manifest.json":
            (other / file.name).symlink_to(file) if file.is_dir() else (other / file.name).hardlink_to(file)
    data = json.loads((bundle / "manifest.json").read_text())
    del data["checksum"]
    block = data["model"]["blocks"][0]
    if change == "eps":
        block["pre_norm"]["eps"] = 0.5
    else:
        block["window"] = 5
    body = json.dumps(data)[1:].encode()
    (other / "manifest.json").write_bytes(f'{{"checksum":"{lane64(body):016x}",\n'.encode() + body)
    with Session(other, Options(context=128)) as session:
        with pytest.raises(
            RuntimeFailure, match=r"another bundle or adapter, or before this one's manifest\.json changed"
        ):
            session.restore(tmp_path / "saved")
        assert session.position == 0


def test_keys_too_large_for_f16_do_not_make_logits_nan(tmp_path: Path) -> None:
    import transformers as tf

    tiny.make("llama_tied_biased", tmp_path / "checkpoint")
    oracle = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32)
    with torch.no_grad():
        for layer in oracle.model.layers:
            layer.self_attn.k_proj.bias.fill_(1e6)
            layer.self_attn.v_proj.bias.fill_(-1e6)
    oracle.save_pretrained(tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    with Session(bundle) as session:
        assert np.isfinite(session.logits(IDS[:20])).all()
