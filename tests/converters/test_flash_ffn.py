"""Feed-forward blocks of this runtime inside another engine: budgets, selections, bad configurations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.converters.base import export
from edgekit.converters.engines import open_engine
from edgekit.converters.session import ArtifactSession
from edgekit.errors import BudgetError, ConvertError, RuntimeFailure
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import LogitSampler, Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import ROOT

IDS = np.random.default_rng(2).integers(3, 199, 24).tolist()


@pytest.fixture(scope="module", params=["llama_relu", "mixtral", "opt_wide"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ffn")
    tiny.make(request.param, folder / "checkpoint")
    path = convert(folder / "checkpoint", folder / "bundle", "q8", layout="split").path
    export(path, "onnx-flash")
    return path


def run(bundle: Path, options: Options) -> np.ndarray:
    engine = open_engine(bundle, "onnx-flash", options)
    out = np.concatenate([engine(IDS[:9]), *(engine([i]) for i in IDS[9:])])
    engine.close()
    return out


@pytest.mark.parametrize("more", [0, 20_000, 100_000])
def test_any_budget_above_the_floor_gives_the_same_logits(bundle: Path, more: int) -> None:
    floor = plan_bundle(bundle, Options(compute="feed_forward")).floor_bytes
    whole = run(bundle, Options())
    # Rows of a product are summed in another order when they come from the window.
    np.testing.assert_allclose(run(bundle, Options(ram=floor + more)), whole, atol=1e-5 * np.abs(whole).max())


def test_the_floor_counts_feed_forward_blocks_only(bundle: Path) -> None:
    alone = plan_bundle(bundle, Options(compute="feed_forward", context=128))
    whole = plan_bundle(bundle, Options(context=128))
    assert alone.kv_bytes == 0
    assert alone.resident_bytes < whole.resident_bytes


def test_memory_stays_within_the_budget(bundle: Path) -> None:
    options = Options(compute="feed_forward")
    floor = plan_bundle(bundle, options).floor_bytes
    ram = floor + 30_000
    with Session(bundle, Options(ram=ram, compute="feed_forward")) as session:
        blocks = [i for i in range(64) if i % 2]
        x = np.random.default_rng(3).standard_normal((1, session.hidden_size)).astype(np.float32)
        for block in blocks[:3]:
            session.feed_forward(block, x)
        assert session.stats.peak_memory_bytes <= ram
        assert session.stats.bytes_read > 0


def test_blocks_in_any_order_give_the_same_result(bundle: Path) -> None:
    floor = plan_bundle(bundle, Options(compute="feed_forward")).floor_bytes
    x = np.random.default_rng(4).standard_normal((3, 64)).astype(np.float32)
    with Session(bundle, Options(compute="feed_forward")) as session:
        want = {b: session.feed_forward(b, x) for b in (1, 3, 5)}
    with Session(bundle, Options(ram=floor + 10_000, compute="feed_forward")) as session:
        for block in (5, 1, 1, 3, 5, 3, 1):
            np.testing.assert_allclose(session.feed_forward(block, x), want[block], atol=1e-4)


def test_misuse_is_told(bundle: Path) -> None:
    x = np.zeros((1, 64), np.float32)
    with Session(bundle, Options(compute="feed_forward")) as session:
        with pytest.raises(RuntimeFailure, match="not a feed-forward block"):
            session.feed_forward(0, x)
        with pytest.raises(RuntimeFailure, match="not a feed-forward block"):
            session.feed_forward(99, x)
        with pytest.raises(RuntimeFailure, match="shape"):
            session.feed_forward(1, x[:, :9])
        with pytest.raises(RuntimeFailure, match="parts of it only"):
            session.eval([5])
    with Session(bundle) as session, pytest.raises(RuntimeFailure, match="parts"):
        session.feed_forward(1, x)
    with pytest.raises(ConvertError, match="too small"):
        run(bundle, Options(ram=1000))
    with pytest.raises(BudgetError):
        Session(bundle, Options(ram=1000, compute="feed_forward"))


def test_a_damaged_unit_is_an_error_of_onnxruntime(bundle: Path) -> None:
    flash = bundle / "flash.bin"
    whole = flash.read_bytes()
    floor = plan_bundle(bundle, Options(compute="feed_forward")).floor_bytes
    try:
        flash.write_bytes(bytes(len(whole)))
        with pytest.raises(ConvertError, match="checksum"):
            run(bundle, Options(ram=floor + 5000))
    finally:
        flash.write_bytes(whole)


def test_logits_of_other_engines_are_sampled_as_our_own(bundle: Path) -> None:
    how = Sampling(temperature=0.9, top_k=20, repeat_penalty=1.2, seed=7)
    text, sampler = list(IDS), LogitSampler()
    with Session(bundle) as session:
        logits = session.logits(text)[-1]
        for _ in range(20):
            token = session.next(how)
            assert sampler.sample(logits, text, how) == token
            text.append(token)
            logits = session.logits([token])[-1]


def test_neurons_come_through_the_window_inside_onnxruntime(tmp_path: Path) -> None:
    demo = convert(ROOT / "examples" / "demo_model" / "checkpoint", tmp_path / "demo", "q8", layout="split").path
    export(demo, "onnx-flash")
    ram = 3 * plan_bundle(demo, Options(compute="linear")).floor_bytes
    read, texts = {}, []
    for select in ("all", "exact"):
        session = ArtifactSession(demo, "onnx-flash", Options(ram=ram, select=select))
        session.eval([1, 5, 6, 7])
        text = []
        for _ in range(24):
            text.append(session.next(Sampling(temperature=0)))
            session.eval(text[-1:])
        stats = session.stats
        assert stats.peak_memory_bytes <= ram
        read[select] = stats.bytes_read
        texts.append(text)
        session.close()
    assert texts[0] == texts[1]
    assert stats.window_hits > 0
    assert 0 < stats.selected < 0.2 * stats.neurons  # a ReLU model
    assert read["exact"] < 0.8 * read["all"]
