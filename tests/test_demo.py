"""The shipped demo model is what its card says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

import edgekit
from edgekit.evaluate import perplexity
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model"
CARD = (DEMO / "README.md").read_text()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edgekit.convert(DEMO / "checkpoint", tmp_path_factory.mktemp("demo") / "demo", recipe="palette4").path


def test_demo_model_is_an_ordinary_llama(tmp_path: Path) -> None:
    model = tf.AutoModelForCausalLM.from_pretrained(DEMO / "checkpoint", dtype=torch.float32)
    path = edgekit.convert(DEMO / "checkpoint", tmp_path / "demo", recipe="f16").path
    ids = list(range(0, 2048, 40))
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    with Session(path, Options(cache_type="f32")) as session:
        got = session.logits(ids)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_demo_runs_within_less_than_its_size(bundle: Path) -> None:
    size = sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file())
    ram = size * 6 // 10

    def text(**options: int) -> str:
        with edgekit.load(bundle, context=128, batch=16, **options) as model:
            out = "".join(p.text for p in model.generate("Once upon a time", 60, Sampling(temperature=0)))
            assert model.stats.peak_memory_bytes <= model.plan.budget_bytes
            return out

    assert plan_bundle(bundle, Options(ram=ram, context=128)).streamed_bytes > 0
    assert text(ram=ram) == text()


@pytest.mark.slow
def test_card_states_the_perplexity_that_is_measured(data: Path, tmp_path: Path) -> None:
    stated = re.search(r"held-out perplexity \| ([0-9.]+) per token, ([0-9.]+) bits per byte", CARD)
    assert stated is not None
    lines = (data / "text" / "tinystories_valid.jsonl").read_text().splitlines()[:200]
    path = edgekit.convert(DEMO / "checkpoint", tmp_path / "demo", recipe="f16").path
    with edgekit.load(path) as model:
        found = perplexity(model, [json.loads(line)["text"] for line in lines])
    assert found.perplexity == pytest.approx(float(stated[1]), rel=0.005)
    assert found.bits_per_byte == pytest.approx(float(stated[2]), rel=0.005)
