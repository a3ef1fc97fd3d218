"""Gemma 4 in the forms of its checkpoints, and what its layers have of their own: embeddings, shared caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.numpy import load_file, save_file

from edgekit.arch import describe
from edgekit.bundle import manifest
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.errors import UnsupportedModelError
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

IDS = np.random.default_rng(2).integers(3, 199, 40).tolist()
VOCAB = 20000


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return bool(np.abs(got - want).max() <= 1e-4 * np.abs(want).max())


def test_a_nested_checkpoint_converts_to_its_text_decoder(tmp_path: Path) -> None:
    model = tiny.make("gemma4", tmp_path / "checkpoint")
    path, file = tmp_path / "checkpoint" / "config.json", tmp_path / "checkpoint" / "model.safetensors"
    text = json.loads(path.read_text())
    path.write_text(json.dumps({"model_type": "gemma4", "text_config": text, "tie_word_embeddings": True}))
    tensors = {n.replace("model.", "model.language_model.", 1): t for n, t in load_file(file).items()}
    other = {f"model.{part}.weight": np.zeros(3, np.float32) for part in ("vision_tower.x", "audio_tower.x")}
    save_file(tensors | other, file, metadata={"format": "pt"})
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    assert len(done.warnings) == 1
    assert "the 2 tensors of the vision part are left out" in done.warnings[0]
    with torch.no_grad():
        want = model(torch.tensor([IDS])).logits[0].numpy()
    with Session(done.path, Options(cache_type="f32")) as session:
        assert close(session.logits(IDS), want)


@pytest.mark.parametrize("name", ["gemma4", "gemma4_keyed"])
def test_sizes_by_kind_of_layer_are_those_of_per_layer_config(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path)
    opened = open_checkpoint(tmp_path)
    shapes = {n: t.shape for n, t in opened.tensors.items()}
    want = describe(opened.config, shapes)
    config: dict[str, Any] = {
        k: v for k, v in opened.config.items() if k not in ("per_layer_config", "rope_parameters")
    }
    assert describe(config | {"global_head_dim": 32, "num_global_key_value_heads": 1}, shapes) == want


def test_mixtures_are_refused_by_name(tmp_path: Path) -> None:
    tiny.make("gemma4", tmp_path)
    opened = open_checkpoint(tmp_path)
    with pytest.raises(UnsupportedModelError, match="enable_moe_block"):
        describe({**opened.config, "enable_moe_block": True}, {n: t.shape for n, t in opened.tensors.items()})


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose embeddings of layers are most of it."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {**tiny.GEMMA4, "vocab_size": VOCAB, "vocab_size_per_layer_input": VOCAB}
    tiny.MAKERS["wide"] = lambda: tf.Gemma4TextConfig(**sizes, hidden_size_per_layer_input=64, num_kv_shared_layers=2)
    tiny.make("wide", folder / "checkpoint")
    del tiny.MAKERS["wide"]
    return convert(folder / "checkpoint", folder / "bundle", "f16").path


def test_a_token_reads_one_row_of_the_embeddings_of_layers(wide: Path) -> None:
    table = next(m for m in manifest.read(wide).data["matrices"] if m["name"] == "layer_embedding")
    assert table["file"] == "flash.bin"
    assert table["unit_stride"] == 4096
    options = Options(context=64, batch=8)
    everything = plan_bundle(wide, options)
    ids = np.random.default_rng(1).integers(3, VOCAB, 30).tolist()
    with Session(wide, options) as session:
        want = np.concatenate([session.logits(ids[:10])] + [session.logits([i]) for i in ids[10:]])
    ram = everything.budget_bytes - 4096 * (VOCAB // table["rows_per_unit"]) * 3 // 4
    with Session(wide, Options(ram=ram, context=64, batch=8)) as session:
        got = np.concatenate([session.logits(ids[:10])] + [session.logits([i]) for i in ids[10:]])
        assert session.plan.streamed_bytes == 0
        assert 0 < session.stats.generation_bytes_read <= 20 * 4096
        assert session.stats.peak_memory_bytes <= ram
    assert np.array_equal(got, want)


def test_layers_that_share_keys_and_values_keep_none(tmp_path: Path) -> None:
    tiny.make("gemma4", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    blocks = [b for b in manifest.read(bundle).data["model"]["blocks"] if b["kind"] == "attention"]
    assert [b.get("source") for b in blocks] == [None, None, None, None, 6, 9]
    own = sum(2 * 4 * 128 * b["kv_heads"] * b["head_dim"] for b in blocks if "source" not in b)
    assert plan_bundle(bundle, Options(context=128, batch=128, cache_type="f32")).kv_bytes < own + 4096
