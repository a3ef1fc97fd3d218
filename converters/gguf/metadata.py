"""The hyperparameters of a GGUF file, from the manifest's blocks, and its tables of rotary frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from edgekit.checkpoint.gguf_config import FACTORS, LONG, SHORT
from edgekit.codecs.base import F32
from edgekit.converters.checkpoint import config_of
from edgekit.converters.gguf.targets import MIXERS, Target, windows
from edgekit.converters.weights import Json, Weights
from edgekit.errors import ConvertError

CLOSE = 1e-5  # relative, of frequencies in f32 that were computed otherwise


def write_hyperparameters(keys: Any, weights: Weights, target: Target, bundle: Path) -> tuple[dict[str, F32], int]:
    """Writes what llama.cpp reads of a model.

    Returns:
        Tensors of rotary frequencies by name, and the tokens up to which the file computes what the model does.
    """
    model = weights.model
    blocks = model["blocks"]
    layers = [b for b in blocks if b["kind"] in MIXERS]
    attention = [b for b in layers if b["kind"] == "attention"]
    if not attention:
        raise ConvertError("gguf: this model has no attention, and llama.cpp's has")
    first = attention[0]
    keys.add_block_count(len(layers))
    keys.add_embedding_length(model["hidden_size"])
    keys.add_vocab_size(model["vocab_size"])
    keys.add_head_count(first["heads"])
    kv = [b["kv_heads"] if b["kind"] == "attention" else 0 for b in layers]
    keys.add_head_count_kv(kv if "convolution" in target.mixers else first["kv_heads"])
    keys.add_key_length(first["head_dim"])
    keys.add_value_length(first["head_dim"])
    norm = next(b["pre_norm"] if "pre_norm" in b else b["post_norm"] for b in layers)
    (keys.add_layer_norm_eps if target.norm == "layer" else keys.add_layer_norm_rms_eps)(norm["eps"])
    _scales(keys, model, target, first)
    _feed_forward(keys, blocks, target)
    _state(keys, layers)
    tables, reach = _rope(keys, weights, target, attention, config_of(bundle))
    spans = windows(model)
    if target.windows and any(spans):
        keys.add_sliding_window(max(spans))
    elif any(spans):
        reach = min([reach, *(w for w in spans if w)])  # up to a window everything is seen
    keys.add_context_length(reach if any(spans) and not target.windows else model["max_context"])
    return tables, reach


def _scales(keys: Any, model: Json, target: Target, first: Json) -> None:
    if target.embedding == "key":
        keys.add_embedding_scale(model["embedding"]["scale"])
    if target.scales:
        keys.add_attention_scale(first["scale"])
        keys.add_residual_scale(next((b.get("residual_scale", 1.0) for b in model["blocks"]), 1.0))
    scale = model["head"].get("scale", 1.0)
    if target.logits:
        keys.add_logit_scale(1 / scale if target.logits == "divisor" else scale)


def _feed_forward(keys: Any, blocks: list[Json], target: Target) -> None:
    dense = [b for b in blocks if b["kind"] == "ffn" and "output_gate" not in b]
    experts = [b for b in blocks if b["kind"] == "experts"]
    shared = [b for b in blocks if b["kind"] == "ffn" and "output_gate" in b]
    keys.add_feed_forward_length(dense[0]["size"] if dense else experts[0]["size"])
    if not experts:
        return
    if dense and target.name != "lfm2moe":
        raise ConvertError(
            f"gguf: llama.cpp's '{target.name}' has experts in every layer; export 'onnx' or 'mlx-exact'"
        )
    keys.add_expert_count(len(experts[0]["matrices"]))
    keys.add_expert_used_count(experts[0]["top_k"])
    keys.add_expert_feed_forward_length(experts[0]["size"])
    if shared:
        keys.add_expert_shared_feed_forward_length(shared[0]["size"])
    if target.name == "lfm2moe":
        keys.add_leading_dense_block_count(len(dense))
        keys.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _state(keys: Any, layers: list[Json]) -> None:
    """What blocks besides attention have."""
    convolution = next((b for b in layers if b["kind"] == "convolution"), None)
    if convolution is not None:
        keys.add_shortconv_l_cache(convolution["taps"])
    linear = next((b for b in layers if b["kind"] == "linear_attention"), None)
    if linear is None:
        return
    kinds = [b["kind"] == "linear_attention" for b in layers]
    every = kinds.index(False) + 1 if False in kinds else len(kinds) + 1
    if kinds != [(i + 1) % every != 0 for i in range(len(kinds))]:
        raise ConvertError("gguf: llama.cpp wants attention in every n-th layer; export 'onnx' or 'mlx-exact'")
    keys.add_ssm_conv_kernel(linear["taps"])
    keys.add_ssm_state_size(linear["key_dim"])
    keys.add_ssm_group_count(linear["key_heads"])
    keys.add_ssm_time_step_rank(linear["value_heads"])
    keys.add_ssm_inner_size(linear["value_dim"] * linear["value_heads"])
    keys.add_full_attention_interval(every)


def _rope(
    keys: Any, weights: Weights, target: Target, attention: list[Json], config: Json
) -> tuple[dict[str, F32], int]:
    """Positions: base, a factor for all frequencies or a table of them, and the reach of what the file can tell."""
    model = weights.model
    used = sorted({b["rope"] for b in attention if b.get("rope") is not None})
    ropes = [model["ropes"][i] for i in used]
    reach: int = model["max_context"]
    if not ropes:
        return {}, reach
    whole = ropes[0]
    if target.name == "gemma3":
        full = next((b["rope"] for b in attention if not b["window"]), attention[0]["rope"])
        local = next((b["rope"] for b in attention if b["window"]), full)
        whole = model["ropes"][full]
        base, factors = _factors(weights.vector(model["ropes"][local]["inv_freq"]))
        if (factors != 1).any():
            raise ConvertError("gguf: llama.cpp's 'gemma3' has no scaled positions in windows; export 'onnx'")
        keys.add_rope_freq_base_swa(base)
    elif len(ropes) > 1:
        raise ConvertError(f"gguf: llama.cpp's '{target.name}' rotates all layers alike; export 'onnx' or 'mlx-exact'")
    keys.add_rope_dimension_count(whole["dim"])
    if target.name.startswith("qwen35"):  # of pictures; text has the same position in all sections
        half = whole["dim"] // 2
        keys.add_rope_dimension_sections([half - 2 * (half // 3), half // 3, half // 3, 0])
    frequencies = weights.vector(whole["inv_freq"])
    if target.name == "phi3":
        return _long(keys, weights, whole, frequencies, config, reach)
    switch = whole.get("switch_length", 0)
    reach = min(reach, switch) if switch else reach
    if _yarn(keys, config, target):
        keys.add_rope_freq_base(_theta(config))
        return {}, reach
    base, factors = _factors(frequencies)
    keys.add_rope_freq_base(base)
    if (factors == factors[0]).all() and whole["scale"] == 1:
        if factors[0] != 1:
            keys.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            keys.add_rope_scaling_factor(float(factors[0]))
        return {}, reach
    if not target.table:
        raise ConvertError(f"gguf: llama.cpp's '{target.name}' has no such scaling of positions; export 'onnx'")
    if whole["scale"] != 1:
        keys.add_rope_scaling_attn_factors(whole["scale"])
    return {FACTORS: factors}, reach


def _factors(frequencies: F32) -> tuple[float, F32]:
    """A base and what divides each of its frequencies; ones where that is the model's table to f32's precision."""
    f = frequencies.astype(np.float64)
    scaled = f[0]
    steps = np.arange(len(f)) / len(f)
    guess = (f[1] / scaled) ** -len(f) if len(f) > 1 else 10000.0
    base = float(f"{guess:.5g}")
    if len(f) > 1 and abs(base ** -steps[1] / (f[1] / scaled) - 1) > CLOSE:
        base = float(np.float32(guess))
    factors = base**-steps / f
    even = np.abs(factors * scaled - 1).max() < CLOSE
    out = np.full(len(f), 1 / scaled) if even else np.where(np.abs(factors - 1) < CLOSE, 1, factors)
    return base, out.astype(np.float32)


def _parameters(config: Json) -> Json:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found if isinstance(found, dict) else {}


def _number(*found: object) -> float:
    """The first of some values of config.json that is there.

    Raises:
        ConvertError: it is no positive number.
    """
    value = next((v for v in found if v is not None), None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
        raise ConvertError(f"gguf: config.json has {str(value)[:30]!r} where a number of positions should be")
    return float(value)


def _theta(config: Json) -> float:
    return _number(_parameters(config).get("rope_theta"), config.get("rope_theta"), 10000.0)


def _yarn(keys: Any, config: Json, target: Target) -> bool:
    """Writes YaRN's keys if the model has it and no table can tell it."""
    told = _parameters(config)
    if target.table or told.get("rope_type", told.get("type")) != "yarn":
        return False
    if told.get("beta_fast", 32) != 32 or told.get("beta_slow", 1) != 1 or told.get("attention_factor") is not None:
        raise ConvertError(f"gguf: llama.cpp's '{target.name}' has no such form of YaRN; export 'onnx'")
    keys.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    keys.add_rope_scaling_factor(_number(told.get("factor")))
    original = _number(told.get("original_max_position_embeddings"), config.get("max_position_embeddings"))
    keys.add_rope_scaling_orig_ctx_len(int(original))
    return True


def _long(
    keys: Any, weights: Weights, rope: Json, frequencies: F32, config: Json, reach: int
) -> tuple[dict[str, F32], int]:
    """Phi-3: two tables of factors, of which llama.cpp takes the long one for contexts beyond the original length."""
    switch = rope.get("switch_length", 0)
    keys.add_rope_scaling_orig_ctx_len(switch or reach)
    if "long_inv_freq" not in rope:
        base, factors = _factors(frequencies)
        if (factors != 1).any():
            raise ConvertError("gguf: llama.cpp's 'phi3' has no such scaling of positions; export 'onnx'")
        keys.add_rope_freq_base(base)
        return {}, reach
    theta = _theta(config)
    keys.add_rope_freq_base(theta)
    keys.add_rope_scaling_attn_factors(rope["scale"])
    plain = theta ** -(np.arange(len(frequencies)) / len(frequencies))
    tables = {SHORT: plain / frequencies, LONG: plain / weights.vector(rope["long_inv_freq"])}
    return {name: table.astype(np.float32) for name, table in tables.items()}, min(reach, switch)
