"""Keys and values of 8 and 4 bits: close to those of 32, in less memory, and as exact in everything that moves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgekit.conversion import convert
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import DEMO

IDS = np.random.default_rng(5).integers(3, 199, 60).tolist()
STORY = "Once upon a time there was a little girl named Lily. She loved to play in the park with her dog. One day"
GREEDY = Sampling(temperature=0)
BITS = {"q8": 8.5, "q4": 4.5}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("cache") / "demo", "f16").path


# gemma3 has rings, lfm2 convolutions (whose inputs stay at 16 bits), qwen3_5 states and gpt_oss sinks.
@pytest.fixture(scope="module", params=["llama", "gemma3", "lfm2", "qwen3_5", "gpt_oss"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.make(request.param, folder / "checkpoint")
    (folder / "checkpoint" / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    return convert(folder / "checkpoint", folder / "bundle", "f32").path


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize(("cache_type", "most"), [("q8", 5e-5), ("q4", 3e-3)])
def test_the_demo_model_stays_close(demo: Path, cache_type: str, most: float) -> None:
    """The mean KL divergence from a cache of 32 bits. Without the rotation, that of 4 bits would be larger."""
    from edgekit.generate.tokenizer import Tokenizer

    ids = Tokenizer(demo / "tokenizer").encode(STORY)
    found = {}
    for kind in ("f32", cache_type):
        with Session(demo, Options(cache_type=kind)) as session:
            found[kind] = log_softmax(session.logits(ids))
    kl = (np.exp(found["f32"]) * (found["f32"] - found[cache_type])).sum(axis=-1)
    assert 0 < kl.mean() < most


@pytest.mark.parametrize("cache_type", ["q8", "q4"])
def test_it_takes_the_memory_of_its_bits(demo: Path, cache_type: str) -> None:
    sizes = {kind: plan_bundle(demo, Options(context=512, cache_type=kind)).kv_bytes for kind in ("f16", cache_type)}
    assert sizes[cache_type] / sizes["f16"] == pytest.approx(BITS[cache_type] / 16, rel=0.01)


@pytest.mark.parametrize("cache_type", ["q8", "q4"])
def test_every_family_stays_close(bundle: Path, cache_type: str) -> None:
    """Random weights; the largest change of a logit, as a share of the largest.

    A router may choose otherwise, so that a mixture changes more.
    """
    found = {}
    for kind in ("f32", cache_type):
        with Session(bundle, Options(context=96, batch=16, cache_type=kind)) as session:
            found[kind] = session.logits(IDS)
    off = np.abs(found[cache_type] - found["f32"]).max() / np.abs(found["f32"]).max()
    assert 0 < off < (0.03 if cache_type == "q8" and bundle.parent.name[:7] != "gpt_oss" else 0.4)


@pytest.mark.parametrize("cache_type", ["q8", "q4"])
def test_saved_copied_rewound_and_drafted_sessions_go_on_to_the_bit(
    bundle: Path, cache_type: str, tmp_path: Path
) -> None:
    options = Options(context=96, batch=16, cache_type=cache_type, sessions=3, select="all")
    with Model(bundle, options) as model:
        first, second, third = (model.create_session() for _ in range(3))
        first.eval(IDS[:40])
        first.save(tmp_path / "saved")
        second.copy_from(first, 40)
        third.restore(tmp_path / "saved")
        want = first.logits(IDS[40:])
        assert np.array_equal(second.logits(IDS[40:]), want)
        assert np.array_equal(third.logits(IDS[40:]), want)
        second.rewind(40)
        assert np.array_equal(second.logits(IDS[40:]), want)
    texts = []
    for drafts in (0, 4):
        with Session(bundle, Options(context=96, batch=16, cache_type=cache_type, draft_tokens=drafts)) as session:
            session.eval((IDS[:10] * 3)[:30])
            texts.append([session.next(GREEDY) for _ in range(40)])
    assert texts[0] == texts[1]


def test_a_cache_of_another_type_is_refused(demo: Path, tmp_path: Path) -> None:
    from edgekit.errors import RuntimeFailure

    with Session(demo, Options(cache_type="q8")) as session:
        session.eval(IDS[:4])
        session.save(tmp_path / "saved")
    with (
        Session(demo, Options(cache_type="q4")) as session,
        pytest.raises(RuntimeFailure, match="another type of KV cache"),
    ):
        session.restore(tmp_path / "saved")
