"""relufy: the surgery against the runtime's own idea of it, and a fine-tune that learns and resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.train.relufy import Tuning, _write, relufy
from edgekit.train.surgery import Surgery, operate
from tests import tiny

IDS = np.random.default_rng(1).integers(3, 199, 24).tolist()


@pytest.mark.parametrize("name", ["llama", "opt", "gpt_neo", "gpt2", "gemma3"])
@pytest.mark.parametrize(
    "surgery",
    [
        Surgery("relu"),
        Surgery("shifted", 0.1),
        Surgery("threshold", 0.05),
        Surgery("drelu"),
        Surgery("relu", norms=True),
    ],
)
def test_what_is_written_is_what_was_operated_on(name: str, surgery: Surgery, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "source", attn_implementation="eager").eval()
    if surgery.kind == "drelu" and name in ("opt", "gpt_neo", "gpt2"):
        with pytest.raises(ConvertError, match="gated"):
            operate(model, surgery)
        return
    assert len(operate(model, surgery)) == model.config.num_hidden_layers
    with torch.no_grad():
        want = model(torch.tensor([IDS])).logits[0].numpy()
    _write(model, tmp_path / "source", tmp_path / "relu", surgery)
    bundle = convert(tmp_path / "relu", tmp_path / "bundle", "f32").path
    with Session(bundle, Options(cache_type="f32", context=64)) as session:
        batch = session.logits(IDS)
        session.reset()
        single = np.concatenate([session.logits([t]) for t in IDS])
    assert np.abs(batch - want).max() <= 1e-4 * np.abs(want).max()
    assert np.abs(single - want).max() <= 1e-4 * np.abs(want).max()


def test_stage_two_is_refused_where_blocks_have_no_norm_in_front(tmp_path: Path) -> None:
    model = tiny.make("olmo2", tmp_path / "source")
    with pytest.raises(ConvertError, match="stage 2"):
        operate(model, Surgery("relu", norms=True))


def test_tuning_recovers_quality_and_resumes(tmp_path: Path, data: Path) -> None:
    source = data / "models" / "stories260K"
    text = [data / "text" / "tinystories_valid.jsonl"]
    tuning = Tuning(steps=30, batch=4, length=64, evaluate=10, save_every=10, device="cpu", learning_rate=1e-3)
    whole = relufy(source, tmp_path / "whole", text, Surgery(), tuning)
    assert whole.original < whole.after.perplexity < 0.3 * whole.before.perplexity
    assert all(0.3 < s < 0.99 for s in whole.after.sparsity)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 25:
            raise Stop

    with pytest.raises(Stop):
        relufy(source, tmp_path / "parts", text, Surgery(), tuning, progress=stop)
    assert not (tmp_path / "parts").exists()
    parts = relufy(source, tmp_path / "parts", text, Surgery(), tuning)
    assert parts.resumed == 20
    assert parts.after.perplexity == pytest.approx(whole.after.perplexity, rel=1e-3)
    report = json.loads((tmp_path / "parts" / "relufy.json").read_text())
    assert report["after"]["perplexity"] == parts.after.perplexity
    with pytest.raises(ConvertError, match="exists already"):
        relufy(source, tmp_path / "parts", text, Surgery(), tuning)


def test_pickled_weights_are_refused_here_too(tmp_path: Path, data: Path) -> None:
    shutil.copytree(data / "models" / "stories260K", tmp_path / "pickled")
    for file in (tmp_path / "pickled").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(Exception, match="pickled weights"):
        relufy(tmp_path / "pickled", tmp_path / "out", [data / "text" / "tinystories_valid.jsonl"], Surgery(), Tuning())


def test_only_what_relufy_made_is_replaced(tmp_path: Path, data: Path) -> None:
    source = shutil.copytree(data / "models" / "stories260K", tmp_path / "source")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("keep")
    for out in (mine, source, source / "inside"):
        with pytest.raises(ConvertError):
            relufy(source, out, [data / "text" / "tinystories_valid.jsonl"], Surgery(), Tuning(), overwrite=True)
    assert (mine / "thesis.txt").read_text() == "keep"
    assert (source / "config.json").is_file()
