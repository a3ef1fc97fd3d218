"""No config.json, however broken, does anything but describe a model or fail in one line."""

from __future__ import annotations

import copy
import functools
import json
import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.arch import describe, known_model_types
from edgekit.arch.families import FAMILIES
from edgekit.bundle.layout import plan_layout
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import EdgekitError
from edgekit.recipe import load_recipe
from tests import openelm, tiny

MISSING = object()
MOST = 32 << 20  # bytes; the tiny models themselves need less than a tenth of this
Shapes = dict[str, tuple[int, ...]]

VALUES: list[Any] = [
    MISSING, None, "x\ny", 0, -1, 1, 3, 1 << 24, 1 << 63, 10**400, 0.5, 1e-300, 1e300, float("nan"), float("inf"), True,
    False, [], ["x"], [1] * 200, {}, {"full_attention": 5}, [[["global"], 1 << 30]], {"x": {"y": [{}]}},
]  # fmt: skip
ONE_OF_EACH = [
    "llama_yarn", "mistral", "mixtral", "qwen2_windows", "qwen3", "qwen3_moe", "gemma3", "phi3_longrope", "olmo2",
    "opt", "gpt2", "gpt_neo", "gpt_neox", "openelm", "smollm3", "olmo3", "granite", "granitemoe", "granitemoehybrid",
    "qwen2_moe", "olmoe", "cohere2", "nemotron", "lfm2", "lfm2_moe", "gpt_oss", "bitnet",
    "qwen3_next", "qwen3_5", "qwen3_5_moe", "gemma4",
]  # fmt: skip

NAMED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_parameters": None, "rope_theta": None}),
    ("llama", {"rope_parameters": None, "rope_theta": 0}),
    ("llama", {"rope_parameters": None, "rope_theta": -1.0}),
    ("llama", {"rope_parameters": 5}),
    ("llama", {"rope_scaling": "x"}),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 0}}),
    ("llama", {"rope_scaling": {"rope_type": ["linear"], "factor": 2.0}}),
    ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": float("nan")}}),
    ("llama", {"rms_norm_eps": 0}),
    ("llama", {"attention_bias": "no"}),
    ("llama", {"hidden_act": ["silu"]}),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}),
    ("qwen3_moe", {"decoder_sparse_step": 0}),
    ("qwen3_moe", {"mlp_only_layers": 5}),
    ("qwen3_moe", {"mlp_only_layers": ["1"]}),
    ("qwen3_moe", {"num_experts_per_tok": 9}),
    ("gemma3", {"query_pre_attn_scalar": 0}),
    ("gemma3", {"query_pre_attn_scalar": -1}),
    ("gemma3", {"final_logit_softcapping": 0.0}),
    ("gemma3", {"layer_types": 5}),
    ("gemma3", {"layer_types": ["sliding_attention"] * 2}),
    ("gemma3", {"layer_types": ["chunked_attention"] * 3}),
    ("gemma3", {"layer_types": None, "sliding_window_pattern": 0}),
    ("gemma3", {"rope_parameters": {"full_attention": []}}),
    ("qwen2_windows", {"layer_types": None, "max_window_layers": "x"}),
    ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": "x"}}),
    ("gpt_neo", {"attention_types": [], "attention_layers": None}),
    ("gpt_neo", {"attention_types": [[["global"], 1 << 24]], "attention_layers": None}),
    ("gpt_neo", {"attention_types": 5, "attention_layers": None}),
    ("gpt_neo", {"attention_types": [[["cubist"], 4]], "attention_layers": None}),
    ("openelm", {"ffn_multipliers": ["x", 1.0, 1.0]}),
    ("openelm", {"ffn_multipliers": [1.0]}),
    ("openelm", {"num_query_heads": [2, 4]}),
    ("qwen3_next", {"linear_num_key_heads": 3}),
    ("qwen3_next", {"linear_conv_kernel_dim": 0}),
    ("qwen3_next", {"layer_types": None, "full_attention_interval": 0}),
    ("qwen3_5", {"layer_types": ["linear_attention"] * 3 + ["sliding_attention"]}),
    ("qwen3_5", {"linear_value_head_dim": "x"}),
    ("qwen3_5", {"attn_output_gate": False}),
    ("qwen3_5_moe", {"num_experts_per_tok": 7}),
    ("gemma4", {"num_kv_shared_layers": 5}),
    ("gemma4", {"num_kv_shared_layers": 7}),
    ("gemma4", {"num_kv_shared_layers": -1}),
    ("gemma4", {"per_layer_config": {"1": {"num_attention_heads": 8}}}),
    ("gemma4", {"per_layer_config": {"1": 5}}),
    ("gemma4", {"per_layer_config": [1]}),
    ("gemma4", {"vocab_size_per_layer_input": 7}),
    ("gemma4", {"enable_moe_block": True}),
    ("gemma4", {"use_bidirectional_attention": "all"}),
]


@functools.cache
def parts(name: str) -> tuple[dict[str, Any], Shapes]:
    """config.json and the shapes of a tiny checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint"
        if name == "openelm":
            openelm.make(path)
        else:
            tiny.make(name, path)
        opened = open_checkpoint(path)
        return dict(opened.config), {n: t.shape for n, t in opened.tensors.items()}


def attempt(config: Any, shapes: Shapes) -> str | None:
    """Describes and lays out; the error's text, or None if there is a model."""
    try:
        plan_layout(describe(config, shapes), load_recipe("palette4"))
    except EdgekitError as error:
        text = str(error)
        assert text, config
        assert len(text.splitlines()) == 1, config
        assert len(text) < 2000, config
        return text
    return None


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def changed(config: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with the value at a path replaced, or taken out."""
    out = copy.deepcopy(config)
    holder: Any = out
    for key in at[:-1]:
        holder = holder[key]
    if value is MISSING:
        del holder[at[-1]]
    else:
        holder[at[-1]] = value
    return out


def test_every_model_type_is_broken_here() -> None:
    assert sorted(parts(name)[0]["model_type"] for name in ONE_OF_EACH) == known_model_types()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_key_may_be_anything(name: str) -> None:
    config, shapes = parts(name)
    assert attempt(config, shapes) is None
    family = next(f for f in FAMILIES if config["model_type"] in f.model_types)
    paths = [*places(config), *((key,) for key in sorted(family.reads - config.keys()))]
    random_values = random.Random(f"config {name}")
    for at in paths:
        for value in VALUES:
            if value is not MISSING or at[0] in config:
                attempt(changed(config, at, value), shapes)
    for _ in range(60):  # several at once
        broken = config
        for at in random_values.sample(paths, 3):
            try:
                broken = changed(broken, at, random_values.choice(VALUES[1:]))
            except (TypeError, KeyError, IndexError):
                continue  # the one before has taken the place away
        attempt(broken, shapes)


HOSTILE = [
    ("gpt_neo", {"attention_types": [[["global"] * 1000, 1 << 24]], "attention_layers": None}),
    ("gpt_neo", {"attention_types": [[["global"], 1 << 24]], "attention_layers": None, "num_layers": 1 << 24}),
    ("llama", {"num_hidden_layers": 1 << 24}),
    ("llama", {"head_dim": 1 << 24}),
    ("llama", {"max_position_embeddings": 1 << 24}),
    ("llama", {"vocab_size": 1 << 24}),
    ("mixtral", {"num_local_experts": 1 << 24}),
    ("gpt_neox", {"num_attention_heads": 1 << 24}),
    ("openelm", {"num_transformer_layers": 1 << 24}),
    ("qwen3_next", {"linear_num_key_heads": 1 << 24, "linear_num_value_heads": 1 << 24}),
    ("qwen3_next", {"num_attention_heads": 1 << 24, "num_key_value_heads": 1}),
    ("qwen3_5_moe", {"num_experts": 1 << 24}),
    ("gemma4", {"hidden_size_per_layer_input": 1 << 24}),
    ("gemma4", {"num_kv_shared_layers": 1 << 24}),
]


@pytest.mark.parametrize(("name", "change"), HOSTILE)
def test_sizes_allocate_nothing_before_they_are_checked(name: str, change: dict[str, Any]) -> None:
    config, shapes = parts(name)
    tracemalloc.start()
    try:
        attempt(config | change, shapes)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "change"), NAMED, ids=lambda v: v if isinstance(v, str) else json.dumps(v)[:60])
def test_broken_values_are_refused_in_one_line(name: str, change: dict[str, Any]) -> None:
    config, shapes = parts(name)
    config = config | change
    if "rope_theta" in change:
        del config["rope_parameters"]
    assert attempt(config, shapes) is not None


@pytest.mark.parametrize("name", ["gemma3", "gemma4", "qwen3_5", "qwen3_5_moe"])
@pytest.mark.parametrize("value", [None, 5, [], "x", {}, {"model_type": "llama"}])
def test_a_text_config_of_any_kind_is_an_error_in_one_line(value: Any, name: str) -> None:
    _, shapes = parts(name)
    assert attempt({"model_type": name, "text_config": value}, shapes) is not None


@pytest.mark.parametrize("value", [None, 5, [], "", "x\ny", {}, 10**400])
def test_a_model_type_of_any_kind_is_an_error_in_one_line(value: Any) -> None:
    config, shapes = parts("llama")
    assert attempt(config | {"model_type": value}, shapes) is not None
