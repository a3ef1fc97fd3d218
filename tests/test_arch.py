"""Descriptions of architectures: configs of every age, and clear refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from edgekit.arch import describe, known_model_types
from edgekit.arch.rope import frequencies
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import CheckpointError, UnsupportedModelError
from tests import tiny

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


def described(folder: Path, config: dict[str, Any] | None = None) -> Any:
    opened = open_checkpoint(folder)
    return describe(config or opened.config, {n: t.shape for n, t in opened.tensors.items()}, opened.generation)


@pytest.mark.parametrize(
    "name", ["llama_linear", "llama_yarn", "llama_llama3", "phi3_longrope", "gpt_neox_serial", "gemma3"]
)
def test_configs_of_older_transformers_mean_the_same(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    old = copy.deepcopy(new)
    params = old.pop("rope_parameters")
    if name == "gemma3":
        old["rope_theta"] = params["full_attention"].pop("rope_theta")
        old["rope_local_base_freq"] = params["sliding_attention"]["rope_theta"]
        old["rope_scaling"] = params["full_attention"]
    elif name == "gpt_neox_serial":
        old["rotary_pct"], old["rotary_emb_base"] = params["partial_rotary_factor"], params["rope_theta"]
    else:
        old["rope_theta"] = params.pop("rope_theta")
        params["type"] = params.pop("rope_type")
        old["rope_scaling"] = params
    assert described(tmp_path, old) == described(tmp_path, new)


@pytest.mark.parametrize(
    "params",
    [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 3.0},
        YARN,
        {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
        {**YARN, "truncate": False, "beta_fast": 16},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 2048},
    ],
)  # fmt: skip
def test_frequencies_are_those_of_transformers(params: dict[str, Any]) -> None:
    config = tf.LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=8192,
        rope_parameters={"rope_theta": 5e5, **params},
    )
    rope = tf.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    ours = frequencies({"rope_theta": 5e5, **params}, 128, 8192)
    assert np.allclose(ours.inv_freq, rope.inv_freq.numpy(), rtol=2e-6)
    assert ours.scale == pytest.approx(rope.attention_scaling)


def test_every_listed_type_has_a_family_and_unknown_ones_a_way_in() -> None:
    assert len(known_model_types()) == 31
    with pytest.raises(UnsupportedModelError, match="known: bitnet, cohere2, gemma3_text, gemma4_text, gpt2"):
        describe({"model_type": "rwkv"}, {})


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "swoosh"},
        {"hidden_size": "64"},
        {"hidden_size": 0},
        {"num_hidden_layers": 10**9},
        {"num_attention_heads": 7, "head_dim": None},
        {"num_key_value_heads": 3},
        {"rms_norm_eps": "1e400"},
        {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1.0}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}},
        {"vocab_size": True},
        {"max_position_embeddings": -5},
        {"hidden_act": "__import__('os').system('id')"},
    ],
)
def test_absurd_configs_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    tiny.make("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | change
    with pytest.raises((UnsupportedModelError, CheckpointError)) as caught:
        described(tmp_path, config)
    assert "\n" not in str(caught.value)


def test_meta_model_of_real_size_is_described() -> None:
    """Llama 3.1 8B as its hub config tells it, shapes from transformers, no weights."""
    config = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "hidden_act": "silu",
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "eos_token_id": [128001, 128008, 128009],
    }  # fmt: skip
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**config))
    made = describe(config, {n: tuple(p.shape) for n, p in model.state_dict().items()})
    assert len(made.blocks) == 64
    assert made.eos_token_ids == (128001, 128008, 128009)
    assert made.max_context == 131072


@pytest.mark.parametrize("kind", ["yarn", "su"])
def test_old_names_of_phi3s_rope_mean_what_transformers_takes_them_for(kind: str, tmp_path: Path) -> None:
    tiny.make("phi3_longrope", tmp_path)
    want = described(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"]["rope_type"] = kind
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert tf.AutoConfig.from_pretrained(tmp_path).rope_parameters["rope_type"] == "longrope"
    assert described(tmp_path) == want
