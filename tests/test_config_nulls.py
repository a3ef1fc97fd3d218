"""Keys of config.json that are null or left out mean what they mean to transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from edgekit.arch import describe
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.errors import UnsupportedModelError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

IDS = np.random.default_rng(3).integers(3, 199, 40).tolist()

NULLABLE = [
    ("mistral", "sliding_window"),
    ("mistral", "head_dim"),
    ("mixtral", "sliding_window"),
    ("qwen2_windows", "sliding_window"),
    ("qwen2_windows", "layer_types"),
    ("qwen3_moe", "sliding_window"),
    ("phi3", "sliding_window"),
    ("phi3_partial", "rope_parameters"),
    ("llama", "head_dim"),
    ("llama", "rope_parameters"),
    ("llama_yarn", "rope_scaling"),
    ("llama_yarn", "rope_parameters"),
    ("llama_mha", "num_key_value_heads"),
    ("gemma3", "layer_types"),
    ("gemma3", "rope_parameters"),
    ("gemma3", "final_logit_softcapping"),
    ("gemma3", "attn_logit_softcapping"),
    ("gpt2", "n_inner"),
    ("gpt_neo", "intermediate_size"),
    ("gpt_neox", "rope_parameters"),
    ("opt", "word_embed_proj_dim"),
]


def edited(name: str, folder: Path, key: str, change: str) -> dict[str, Any]:
    """A tiny checkpoint whose config has `key` null or not at all."""
    tiny.make(name, folder)
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    if change == "null":
        config[key] = None
    else:
        config.pop(key, None)
    if key == "sliding_window":
        config.pop("layer_types", None)  # derived from it
    path.write_text(json.dumps(config))
    return config


@pytest.mark.parametrize("change", ["null", "absent"])
@pytest.mark.parametrize(("name", "key"), NULLABLE)
def test_null_and_absent_keys_give_the_logits_of_transformers(name: str, key: str, change: str, tmp_path: Path) -> None:
    edited(name, tmp_path / "checkpoint", key, change)
    model = tf.AutoModelForCausalLM.from_pretrained(
        tmp_path / "checkpoint", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        want = model(torch.tensor([IDS])).logits[0].numpy()
    convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    with Session(tmp_path / "bundle.edgekit", Options(cache_type="f32")) as session:
        got = session.logits(IDS)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize(
    ("name", "change", "window"),
    [
        ("mistral", "null", 0),
        ("mistral", "absent", 4096),
        ("mixtral", "null", 0),
        ("mixtral", "absent", 0),
        ("phi3", "null", 0),
        ("phi3", "absent", 0),
        ("qwen3_moe", "null", 0),
    ],
)
def test_a_window_that_is_null_is_no_window(name: str, change: str, window: int, tmp_path: Path) -> None:
    config = edited(name, tmp_path, "sliding_window", change)
    opened = open_checkpoint(tmp_path)
    attention: Any = describe(config, {n: t.shape for n, t in opened.tensors.items()}).blocks[0]
    assert attention.window == window


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llama", "rms_norm_eps"),
        ("llama", "hidden_act"),
        ("llama", "tie_word_embeddings"),
        ("llama", "rope_theta"),
        ("llama", "max_position_embeddings"),
        ("gemma3", "query_pre_attn_scalar"),
        ("gemma3", "sliding_window"),
        ("qwen2_windows", "max_window_layers"),
        ("mixtral", "num_experts_per_tok"),
        ("gpt2", "scale_attn_weights"),
        ("gpt_neo", "window_size"),
    ],
)
def test_null_is_refused_where_a_value_is_needed(name: str, key: str, tmp_path: Path) -> None:
    config = edited(name, tmp_path, key, "null")
    config.pop("layer_types", None)
    if key == "rope_theta":
        del config["rope_parameters"]
    opened = open_checkpoint(tmp_path)
    with pytest.raises(UnsupportedModelError, match=key):
        describe(config, {n: t.shape for n, t in opened.tensors.items()})
