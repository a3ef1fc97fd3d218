"""The table of defaults is transformers', and what nothing reads is named in a warning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgekit.arch import describe, encoder_model_types, known_model_types, vision_model_types
from edgekit.arch.build import REQUIRED_VALUES
from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.arch.families import ENCODERS, FAMILIES
from edgekit.arch.overlooked import HARMLESS
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.errors import UnsupportedModelError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import config_defaults, openelm, tiny
from tests.conftest import ROOT


def test_the_table_is_that_of_the_installed_transformers() -> None:
    pytest.importorskip("transformers")
    listed = [t for t in known_model_types() if t != "openelm"]  # which transformers has no class for
    assert config_defaults.TABLE.read_text() == config_defaults.text(
        [*listed, *encoder_model_types(), *vision_model_types()]
    )


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS], ids=lambda f: f.model_types[0])
def test_every_key_of_a_config_class_is_read_harmless_or_refused(family: Any) -> None:
    known = family.reads | family.harmless | HARMLESS | family.required_values.keys() | REQUIRED_VALUES.keys()
    assert sorted(family.defaults.keys() - known) == []


def make(name: str, folder: Path, change: dict[str, Any] | None = None, tensors: dict[str, Any] | None = None) -> Any:
    """A tiny checkpoint with more keys and tensors; returns the model it was made from."""
    if name == "openelm":
        model: Any = openelm.make(folder)
    else:
        model = tiny.make(name, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | (change or {})))
    if tensors:
        file = folder / "model.safetensors"
        save_file(load_file(file) | tensors, file, metadata={"format": "pt"})
    return model


@pytest.mark.parametrize("name", [*sorted(tiny.MAKERS), "openelm"])
def test_a_plain_checkpoint_gives_no_warning(name: str, tmp_path: Path) -> None:
    make(name, tmp_path / "checkpoint")
    assert describe_checkpoint(open_checkpoint(tmp_path / "checkpoint"))[1] == ()


def test_real_checkpoints_give_no_warning(stories: Path) -> None:
    for folder in sorted(stories.parent.iterdir()):
        if (folder / "config.json").is_file():
            assert describe_checkpoint(open_checkpoint(folder))[1] == ()


def test_keys_nobody_reads_are_named_in_one_warning(tmp_path: Path) -> None:
    make("llama", tmp_path, {"partial_rotary_factor": 0.5, "logit_scale": 2.0, "clip_qkv": None, "use_moe": False})
    _, lines = describe_checkpoint(open_checkpoint(tmp_path))
    assert len(lines) == 1
    assert "2 keys" in lines[0]
    assert "logit_scale = 2.0, partial_rotary_factor = 0.5" in lines[0]


def test_tensors_nobody_uses_are_counted_in_one_warning(tmp_path: Path) -> None:
    extra = {f"model.layers.{i}.extra.weight": np.zeros(3, np.float32) for i in range(7)}
    buffers = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(8, np.float32)}
    make("llama", tmp_path, tensors=extra | buffers)
    _, lines = describe_checkpoint(open_checkpoint(tmp_path))
    assert len(lines) == 1
    assert lines[0].startswith("7 tensors of the checkpoint are not used: model.layers.0.extra.weight, ")
    assert "inv_freq" not in lines[0]


def test_buffers_of_older_versions_are_no_surprise(tmp_path: Path) -> None:
    mask = np.ones((1, 1, 8, 8), np.float32)
    make(
        "gpt2",
        tmp_path,
        tensors={"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": mask[0, 0, 0, :1]},
    )
    assert describe_checkpoint(open_checkpoint(tmp_path))[1] == ()


def test_convert_prints_warnings_on_stderr(tmp_path: Path) -> None:
    make("llama", tmp_path / "checkpoint", {"logit_scale": 2.0})
    command = [sys.executable, "-m", "edgekit", "convert", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "b")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning: config.json: edgekit does not use 1 key " in done.stderr
    assert "logit_scale" not in done.stdout


def test_a_quantized_checkpoint_is_refused(tmp_path: Path) -> None:
    make("llama", tmp_path, {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    with pytest.raises(UnsupportedModelError, match="quantization_config"):
        describe_checkpoint(open_checkpoint(tmp_path))


def logits_of_both(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Ours and transformers', of a checkpoint."""
    import torch
    import transformers as tf

    ids = np.random.default_rng(4).integers(3, 199, 20).tolist()
    model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    convert(folder, folder.parent / "bundle", "f32")
    with Session(folder.parent / "bundle.edgekit", Options(cache_type="f32")) as session:
        return session.logits(ids), want


def test_a_head_that_differs_from_the_embedding_it_is_tied_to_is_used(tmp_path: Path) -> None:
    head = np.random.default_rng(5).normal(size=(199, 64)).astype(np.float32)
    make("llama_tied_biased", tmp_path / "checkpoint", tensors={"lm_head.weight": head})
    got, want = logits_of_both(tmp_path / "checkpoint")
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert "lm_head.weight" in describe_checkpoint(open_checkpoint(tmp_path / "checkpoint"))[1][0]


def test_a_head_that_repeats_the_embedding_stays_tied(tmp_path: Path) -> None:
    make("llama_tied_biased", tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    make("llama_tied_biased", tmp_path, tensors={"lm_head.weight": embedding})
    model, lines = describe_checkpoint(open_checkpoint(tmp_path))
    assert model.head is model.embedding
    assert lines == ()


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gpt_neo"])
def test_a_bias_that_the_config_denies_is_not_used(name: str, tmp_path: Path) -> None:
    o = "transformer.h.0.attn.attention.q_proj" if name == "gpt_neo" else "model.layers.0.self_attn.o_proj"
    make(name, tmp_path / "checkpoint", tensors={f"{o}.bias": np.full(64, 5.0, np.float32)})
    got, want = logits_of_both(tmp_path / "checkpoint")
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert describe_checkpoint(open_checkpoint(tmp_path / "checkpoint"))[1] == (
        f"1 tensor of the checkpoint is not used: {o}.bias",
    )


def test_describe_alone_takes_the_config_at_its_word(tmp_path: Path) -> None:
    make("llama_tied_biased", tmp_path, tensors={"lm_head.weight": np.zeros((199, 64), np.float32)})
    opened = open_checkpoint(tmp_path)
    model = describe(opened.config, {n: t.shape for n, t in opened.tensors.items()})
    assert model.head is model.embedding
