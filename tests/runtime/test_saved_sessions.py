"""Sessions in files: the same text afterwards, under any budget; nothing of a bad file is believed."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.bundle.checksum import lane64
from edgekit.cli.main import cli, main
from edgekit.conversion import convert
from edgekit.errors import BundleError, RuntimeFailure
from edgekit.generate.loop import TextModel
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import ROOT

IDS = np.random.default_rng(0).integers(3, 199, 20).tolist()
GREEDY = Sampling(temperature=0)


DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


def make(model: str, folder: Path) -> Path:
    """A tiny model as a bundle, with a tokenizer."""
    tiny.make(model, folder / "checkpoint")
    shutil.copy(DEMO / "tokenizer.json", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "q8").path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("mistral", tmp_path_factory.mktemp("saved"))


@pytest.fixture
def saved(bundle: Path, tmp_path: Path) -> Path:
    path = tmp_path / "session"
    with Session(bundle) as session:
        session.eval(IDS[:12])
        session.save(path)
    return path


@pytest.mark.parametrize("tight", [False, True])
def test_a_restored_session_goes_on_bit_for_bit(tight: bool, bundle: Path, saved: Path) -> None:
    with Session(bundle) as session:
        session.eval(IDS[:12])
        want = session.logits(IDS[12:])
    ram = plan_bundle(bundle, Options()).floor_bytes + 50_000 if tight else None
    with Session(bundle, Options(ram=ram)) as session:
        session.eval(IDS[3:9])  # something else was there
        session.restore(saved)
        assert session.position == 12
        assert session.tokens == IDS[:12]
        with pytest.raises(RuntimeFailure, match="no logits"):
            session.next(GREEDY)
        got = session.logits(IDS[12:])
    if tight:  # smaller batches add in another order
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    else:
        np.testing.assert_array_equal(got, want)


def test_rewinding_forgets_the_end(bundle: Path) -> None:
    with Session(bundle) as session:
        session.eval(IDS[:12])
        session.rewind(7)
        assert session.tokens == IDS[:7]
        got = session.logits(IDS[7:12])
        with pytest.raises(RuntimeFailure, match="has 12 tokens, not 13"):
            session.rewind(13)
    with Session(bundle) as session:
        session.eval(IDS[:7])
        np.testing.assert_array_equal(session.logits(IDS[7:12]), got)


def test_what_does_not_fit_is_refused(bundle: Path, saved: Path, tmp_path: Path) -> None:
    tiny.make("qwen3", tmp_path / "other")
    other = convert(tmp_path / "other", tmp_path / "other-bundle", "q8").path
    for path, options, message in (
        (other, Options(), "another bundle"),
        (bundle, Options(cache_type="f32"), "another type of KV cache"),
        (bundle, Options(context=8), "has 12 tokens, the context 8"),
        (bundle, Options(select="prompt"), "not saved"),
        (bundle, Options(compute="feed_forward"), "parts of it only"),
    ):
        with Session(path, options) as session, pytest.raises(RuntimeFailure, match=message):
            session.restore(saved)
    with Session(bundle) as session:
        with pytest.raises(BundleError, match="cannot be opened"):
            session.restore(tmp_path / "none")
        with pytest.raises(RuntimeFailure, match="cannot be written"):
            session.save(tmp_path / "no" / "folder")


def test_no_damage_goes_unnoticed(bundle: Path, saved: Path) -> None:
    whole = saved.read_bytes()
    random = np.random.default_rng(1)
    with Session(bundle) as session:
        for at in [*range(64), *random.integers(64, len(whole), 60)]:
            raw = bytearray(whole)
            raw[at] ^= 0x41
            saved.write_bytes(raw)
            with pytest.raises((BundleError, RuntimeFailure)):
                session.restore(saved)
            assert session.position == 0
        for size in (0, 8, 63, 64, 100, len(whole) - 1):
            saved.write_bytes(whole[:size])
            with pytest.raises(BundleError):
                session.restore(saved)
        saved.write_bytes(whole + b"\0")
        with pytest.raises(BundleError):
            session.restore(saved)


def test_a_forged_header_reaches_no_memory(bundle: Path, saved: Path) -> None:
    whole = saved.read_bytes()
    with Session(bundle, Options(context=64)) as session:
        for position in (13, 64, 65, 1 << 31, (1 << 32) - 1):
            head = bytearray(whole[:56])
            head[24:28] = struct.pack("<I", position)
            saved.write_bytes(bytes(head) + struct.pack("<Q", lane64(bytes(head))) + whole[64:])
            with pytest.raises((BundleError, RuntimeFailure)):
                session.restore(saved)
        tokens = np.array([5] * 11 + [100_000], "<i4").tobytes()  # a token that the model does not have
        saved.write_bytes(whole[:64] + struct.pack("<Q", lane64(tokens)) + tokens + whole[64 + 8 + 48 :])
        with pytest.raises(BundleError, match="does not have"):
            session.restore(saved)


def test_a_saved_prompt_beyond_the_context_is_read_afresh(bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with TextModel(bundle) as model:
        list(model.generate(IDS, 1, GREEDY, prompt_cache=cache))
        want = [p.token for p in model.generate(IDS[:6], 4, GREEDY)]
    for cached in (0, 5):
        with TextModel(bundle, Options(context=12)) as model:
            assert [p.token for p in model.generate(IDS[:6], 4, GREEDY, prompt_cache=cache)] == want
            assert model.cached_tokens == cached


def test_keys_that_depend_on_the_length_are_not_cached(tmp_path: Path) -> None:
    with TextModel(make("llama_dynamic", tmp_path)) as model, pytest.raises(RuntimeFailure, match="no prompt cache"):
        next(model.generate(IDS, 1, GREEDY, prompt_cache=tmp_path / "cache"))


def test_run_reads_only_what_is_new_of_a_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = convert(DEMO, tmp_path / "demo", "palette4").path
    cache, told = tmp_path / "cache", []
    for prompt in ("Once upon a time there was a dog", "Once upon a time there was a dog", "Once upon a time a cat"):
        arguments = ["run", str(demo), "-p", prompt, "-n", "16", "--temp", "0", "--json"]
        plain = json.loads(CliRunner().invoke(cli, arguments).output)
        cached = json.loads(CliRunner().invoke(cli, [*arguments, "--prompt-cache", str(cache)]).output)
        assert cached["text"] == plain["text"]
        told.append(cached["cached_tokens"])
        count = plain["prompt_tokens"]
    assert told[0] == 0
    assert told[1] > told[2] > 0
    assert told[2] < count
    cache.write_bytes(b"noise")
    assert main(["run", str(demo), "-p", "a", "--prompt-cache", str(cache)]) == 1
    out = capsys.readouterr()
    assert "no saved session" in out.err
    assert out.err.count("\n") == 1
