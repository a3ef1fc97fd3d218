"""Full-size checkpoints with the sparsity of trained ReLU models planted into random weights.

Neuron i fires with probability p_i, spread like a power law (a few fire nearly always, most hardly ever).
What decides it is of low rank but for some noise, so a predictor finds it as well as real ones are found:
about 5% of the active neurons missed, about 7% of the inactive taken. The predictor that belongs to the
planted structure is written as a calibration, so that nobody has to learn it from 7B weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.synthetic import llama_shapes, write_checkpoint
from edgekit.plan.reuse import TOKENS, reuse_curves

F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
RANK = 128
NOISE = 0.4  # of a pre-activation, beside a low-rank part of deviation 1
SPREAD = 1.4  # of the logarithms of firing probabilities
CONSTANT = 8.0  # value of dimension 0 of a gated model's FFN input: stands in for a bias


@dataclass(frozen=True)
class Shape:
    """A model to plant: its sizes, and the mean share of neurons that fire."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    vocab: int
    active: float
    gated: bool
    experts: int = 0
    top_k: int = 0


OPT_7B = Shape("OPT-6.7B", 4096, 16384, 32, 32, 50272, 0.03, False)
MOE_7B = Shape("MoE-7B-A1B", 2048, 1024, 16, 16, 50304, 1.0, True, 64, 8)
LLAMA_7B = Shape("ReLU-Llama-7B", 4096, 11008, 32, 32, 32000, 0.10, True)


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(list(repr(key).encode()))


def thresholds(shape: Shape, layer: int) -> F32:
    """Pre-activation above which each neuron fires, in deviations of it, f32 [ffn]."""
    mean = math.log(shape.active) - SPREAD**2 / 2
    p = np.exp(_rng("p", layer).normal(mean, SPREAD, shape.ffn))
    inverse = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])
    out: F32 = (inverse(1 - np.clip(p, 1e-5, 0.95)) * math.hypot(1, NOISE)).astype(np.float32)
    return out


def factors(shape: Shape, layer: int) -> tuple[F32, F32]:
    """up [ffn, RANK] and down [RANK, hidden] of the low-rank part."""
    rng = _rng("factors", layer)
    up = rng.standard_normal((shape.ffn, RANK), np.float32) / np.float32(math.sqrt(RANK))
    down = rng.standard_normal((RANK, shape.hidden), np.float32)
    if shape.gated:
        down[:, 0] = 0
    return up, down / np.float32(math.sqrt(shape.hidden))


def shift(cut: F32, misses: float = 0.05) -> float:
    """What to add to a predictor's bias so that it misses that share of the firing neurons."""
    rng = _rng("shift")
    low = rng.standard_normal((64, len(cut)), np.float32)
    fires = low + NOISE * rng.standard_normal(low.shape, np.float32) > cut
    return -float(np.quantile((low - cut)[fires], misses))


def selecting_matrix(shape: Shape, layer: int) -> F32:
    """The rows that decide whether neurons fire, f32 [ffn, hidden]."""
    up, down = factors(shape, layer)
    noise = _rng("noise", layer).standard_normal((shape.ffn, shape.hidden), np.float32)
    noise *= np.float32(NOISE / math.sqrt(shape.hidden))
    noise += up @ down
    if shape.gated:
        noise[:, 0] = -thresholds(shape, layer) / np.float32(CONSTANT)
    return noise


def opt_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of an OPT's tensors, in order."""
    at, h = "model.decoder.", shape.hidden
    yield at + "embed_tokens.weight", (shape.vocab, h)
    yield at + "embed_positions.weight", (2050, h)
    for i in range(shape.layers):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{at}layers.{i}.self_attn.{part}.weight", (h, h)
            yield f"{at}layers.{i}.self_attn.{part}.bias", (h,)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{at}layers.{i}.{norm}.weight", (h,)
            yield f"{at}layers.{i}.{norm}.bias", (h,)
        yield f"{at}layers.{i}.fc1.weight", (shape.ffn, h)
        yield f"{at}layers.{i}.fc1.bias", (shape.ffn,)
        yield f"{at}layers.{i}.fc2.weight", (h, shape.ffn)
        yield f"{at}layers.{i}.fc2.bias", (h,)
    yield at + "final_layer_norm.weight", (h,)
    yield at + "final_layer_norm.bias", (h,)


def moe_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Qwen3-MoE's tensors, in order."""
    h, d = shape.hidden, shape.hidden // shape.heads
    yield "model.embed_tokens.weight", (shape.vocab, h)
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{norm}.weight", (h,)
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{at}self_attn.{part}.weight", (h, h)
        for norm in ("q_norm", "k_norm"):
            yield f"{at}self_attn.{norm}.weight", (d,)
        yield f"{at}mlp.gate.weight", (shape.experts, h)
        for e in range(shape.experts):
            for part, size in (
                ("gate_proj", (shape.ffn, h)),
                ("up_proj", (shape.ffn, h)),
                ("down_proj", (h, shape.ffn)),
            ):
                yield f"{at}mlp.experts.{e}.{part}.weight", size
    yield "model.norm.weight", (h,)
    yield "lm_head.weight", (shape.vocab, h)


def router(shape: Shape, layer: int) -> F32:
    """A router with favourites: the deviation of an expert's popularity is that of its taste."""
    rng = _rng("router", layer)
    out = rng.standard_normal((shape.experts, shape.hidden), np.float32) / np.float32(math.sqrt(shape.hidden))
    out[:, 0] = rng.standard_normal(shape.experts) / CONSTANT
    return out


def config_of(shape: Shape) -> dict[str, Any]:
    """A config.json."""
    common = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if not shape.gated:
        return common | {
            "model_type": "opt",
            "architectures": ["OPTForCausalLM"],
            "activation_function": "relu",
            "ffn_dim": shape.ffn,
            "word_embed_proj_dim": shape.hidden,
            "do_layer_norm_before": True,
            "tie_word_embeddings": True,
        }
    if shape.experts:
        return common | {
            "model_type": "qwen3_moe",
            "architectures": ["Qwen3MoeForCausalLM"],
            "hidden_act": "silu",
            "intermediate_size": shape.ffn,
            "moe_intermediate_size": shape.ffn,
            "num_experts": shape.experts,
            "num_experts_per_tok": shape.top_k,
            "norm_topk_prob": True,
            "num_key_value_heads": shape.heads,
            "head_dim": shape.hidden // shape.heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        }
    return common | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "relu",
        "intermediate_size": shape.ffn,
        "num_key_value_heads": shape.heads,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }


def values(shape: Shape, name: str, size: tuple[int, ...]) -> npt.NDArray[np.float16]:
    """The f16 weights of a tensor."""
    parts = name.split(".")
    layer = int(parts[parts.index("layers") + 1]) if "layers" in parts else -1
    if name.endswith("mlp.gate.weight"):
        made = router(shape, layer)
    elif (".fc1." in name or ".gate_proj." in name) and not shape.experts:
        made = selecting_matrix(shape, layer) if len(size) == 2 else -thresholds(shape, layer)
    elif len(size) == 1:
        made = np.full(size, 0.0 if name.endswith("bias") else 1.0, np.float32)
    else:
        made = _rng(name).standard_normal(size, np.float32)
        if "embed_tokens" in name:
            if shape.gated:
                made[:, 0] = CONSTANT
        elif shape.experts and "down_proj" in name:
            made *= np.float32(0.002)
        else:  # small steps, so that the input of every block stays what the planting assumes
            made *= np.float32(0.02 if "out_proj" not in name and "o_proj" not in name else 0.002)
    return made.astype(np.float16)


def make(shape: Shape, folder: Path) -> None:
    """Writes the checkpoint."""
    shapes = moe_shapes(shape) if shape.experts else llama_shapes(config_of(shape))
    shapes = shapes if shape.gated else opt_shapes(shape)
    write_checkpoint(folder, config_of(shape), list(shapes), lambda n, s: values(shape, n, s), shards=4)


def calibration(shape: Shape, file: Path) -> None:
    """Writes the predictors that belong to the planted structure, as a calibration would."""
    from safetensors.numpy import save_file

    tensors: dict[str, F32] = {}
    for layer in range(shape.layers):
        at = f"calibration.{2 * layer + 1}."
        cut = thresholds(shape, layer)
        tensors[at + "up"], tensors[at + "down"] = factors(shape, layer)
        tensors[at + "bias"] = (-cut + shift(cut)).astype(np.float32)
    found = report(shape)  # every layer is planted alike
    curves = reuse_curves([taken(shape, layer)[1] for layer in range(shape.layers)])
    reports = {str(2 * layer + 1): {**found, "reuse": curve} for layer, curve in enumerate(curves)}
    save_file(tensors, file, {"reports": json.dumps(reports)})


def taken(shape: Shape, layer: int) -> tuple[Bools, Bools]:
    """Which neurons fire, and which the predictor takes, for inputs as the planting has them, bool [TOKENS, ffn]."""
    cut, (up, _) = thresholds(shape, layer), factors(shape, layer)
    rng = _rng("report", layer)
    low = rng.standard_normal((TOKENS, RANK), np.float32) @ up.T
    fires = low + NOISE * rng.standard_normal(low.shape, np.float32) > cut
    return fires, low - cut + shift(cut) > 0


def report(shape: Shape) -> dict[str, Any]:
    """What a calibration would have measured of a layer."""
    fires, predicted = taken(shape, 0)
    return {
        "active": round(float(fires.mean()), 4),
        "predicted": round(float(predicted.mean()), 4),
        "false_negatives": round(float((fires & ~predicted).sum() / fires.sum()), 4),
        "false_positives": round(float((predicted & ~fires).sum() / (~fires).sum()), 4),
    }
