"""A bundle as a folder that unmodified mlx_lm loads: the checkpoint's tensors again, quantized as MLX does.

Affine codes stay what they are where rows and groups lie as MLX wants them; palettes and down projections
(whose groups lie across) are re-quantized, and the error is counted.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import numpy as np

from edgekit.arch.spec import Attention, Ffn, Model
from edgekit.codecs.forms import AffineForm, DenseForm
from edgekit.codecs.plain import bf16_bits
from edgekit.converters.base import Job
from edgekit.converters.checkpoint import Piece, assembled, config_of, described, matrices, vectors
from edgekit.converters.mlx import hybrid
from edgekit.converters.mlx.pack import GROUP, words
from edgekit.converters.safetensors_file import SafetensorsFile
from edgekit.converters.steep import steep_factors, wide
from edgekit.converters.weights import Json, Weight
from edgekit.errors import ConvertError

# model_type -> what mlx_lm puts in front of the checkpoint's names
PREFIXES = {
    "llama": "", "mistral": "", "qwen2": "", "qwen3": "", "qwen3_moe": "", "mixtral": "", "gemma3_text": "",
    "phi3": "", "olmo2": "", "gpt2": "model.", "gpt_neox": "", "smollm3": "", "granite": "", "olmo3": "", "olmoe": "",
    "qwen2_moe": "", "cohere2": "", "nemotron": "", **dict.fromkeys(hybrid.KINDS, ""),
}  # fmt: skip
ACTIVATIONS = {
    "gemma3_text": "gelu_tanh",
    "gpt2": "gelu_tanh",
    "gpt_neox": "gelu_tanh",
    "nemotron": "relu2",
}  # what its code computes
WINDOWED = ("llama", "mistral", "gemma3_text", "olmo3", "cohere2")
EXPERT = re.compile(r"(.*)\.experts\.(\d+)\.(\w+)\.weight")
EXPERT_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def export(job: Job) -> None:
    """Writes config.json, model.safetensors and the tokenizer.

    Raises:
        ConvertError: mlx_lm has no such model, or its code computes something else.
    """
    model = described(job.bundle, job.weights)
    config = config_of(job.bundle)
    _refuse(model, config)
    file = SafetensorsFile(job.folder / "model.safetensors")
    job.about["context"] = _reach(model)
    factors = steep_factors(job.weights, job.about)  # mlx_lm's llama has SiLU only
    stacks: dict[str, dict[int, list[Piece]]] = defaultdict(dict)
    prefix = PREFIXES[model.model_type]
    for tensor, pieces in matrices(model, job.weights.model).items():
        expert = EXPERT.fullmatch(tensor)
        if expert:  # mlx_lm wants all experts of a block in one tensor
            name = EXPERT_NAMES.get(expert[3], expert[3])
            stacks[f"{expert[1]}.switch_mlp.{name}"][int(expert[2])] = pieces
        else:
            _add(
                file, _named(prefix, tensor).removesuffix(".weight"), [_assembled(job, pieces, factors)], stacked=False
            )
    for name, experts in stacks.items():
        _add(file, name, [_assembled(job, experts[i], factors) for i in sorted(experts)], stacked=True)
    for tensor, values in vectors(model, job.weights, factors).items():
        values = hybrid.vector(tensor, values, model) if model.model_type in hybrid.KINDS else values
        file.add(_named(prefix, tensor), values.astype(np.float32 if wide(job.weights) else np.float16))
    file.close()
    (job.folder / "config.json").write_text(json.dumps(_config(model, config), indent=1))
    job.copy_tokenizer(leave="config.json")


def _named(prefix: str, tensor: str) -> str:
    return prefix + tensor.removeprefix("transformer.") if prefix else tensor


def _assembled(job: Job, pieces: list[Piece], factors: dict[str, float]) -> Weight:
    weight = assembled(pieces, job.weights, job.choices.bits, GROUP, factors)
    if isinstance(weight, AffineForm) and weight.codes.shape[1] % weight.group_size:
        return DenseForm(weight.dense(), "f16")  # MLX has whole groups only
    return weight


def _add(file: SafetensorsFile, name: str, weights: list[Weight], *, stacked: bool) -> None:
    """One tensor, or those of all experts as one with a leading axis."""

    def joined(values: list[Any]) -> Any:
        return np.stack(values) if stacked else values[0]

    first = weights[0]
    if isinstance(first, AffineForm):
        coded = [w for w in weights if isinstance(w, AffineForm)]
        file.add(f"{name}.weight", joined([words(w.codes, w.bits) for w in coded]))
        file.add(f"{name}.scales", joined([w.scale for w in coded]))
        file.add(f"{name}.biases", joined([w.bias for w in coded]))
        return
    values = joined([w.dense() for w in weights])
    kind = first.dtype if isinstance(first, DenseForm) else "f16"
    if kind == "bf16":
        file.add(f"{name}.weight", bf16_bits(values), "bfloat16")
    else:
        file.add(f"{name}.weight", values.astype(np.float16 if kind == "f16" else np.float32))


def _refuse(model: Model, config: Json) -> None:
    kind = model.model_type
    if kind not in PREFIXES:
        raise ConvertError(
            f"'{kind}' is not written for mlx_lm, only {', '.join(PREFIXES)}; 'mlx-exact' takes every model"
        )
    if kind in hybrid.KINDS:
        hybrid.refuse(model)
    wanted = ACTIVATIONS.get(kind, "silu")
    for block in model.blocks:
        if isinstance(block, Ffn):
            gelus = {"gelu", "gelu_tanh"}
            steep = block.activation == "relu" and wanted == "silu" and block.gated
            if block.activation != wanted and not {block.activation, wanted} <= gelus and not steep:
                raise ConvertError(f"mlx_lm's '{kind}' computes {wanted}, not {block.activation}; export 'mlx-exact'")
            if block.up_relu or block.pre_relu:
                raise ConvertError(f"mlx_lm's '{kind}' has no extra ReLU; export 'mlx-exact'")
        elif isinstance(block, Attention) and block.window and kind not in WINDOWED:
            raise ConvertError(f"mlx_lm's '{kind}' has no sliding window; export 'mlx-exact'")
    if any(rope.long_inv_freq is not None for rope in model.ropes):
        raise ConvertError(f"mlx_lm's '{kind}' uses LongRoPE's long factors at every length; export 'mlx-exact'")
    if kind == "cohere2" and (model.head != model.embedding or _rope_kind(config) != "default"):
        raise ConvertError("mlx_lm's 'cohere2' has tied embeddings and plain positions only; export 'mlx-exact'")
    if kind == "qwen2_moe" and any(isinstance(b, Ffn) and b.router is None and not b.parallel for b in model.blocks):
        raise ConvertError("mlx_lm's 'qwen2_moe' has no dense layers; export 'mlx-exact'")
    if kind == "qwen2_moe" and any(isinstance(b, Ffn) and b.normalize for b in model.blocks):
        raise ConvertError("mlx_lm's 'qwen2_moe' does not normalize the experts' weights; export 'mlx-exact'")
    if kind == "gpt_neox" and any(isinstance(b, Ffn) and b.size != 4 * model.hidden_size for b in model.blocks):
        raise ConvertError("mlx_lm's 'gpt_neox' has feed-forward blocks of 4 x hidden_size only; export 'mlx-exact'")
    if kind == "gpt_neox" and not config.get("use_parallel_residual", True):
        raise ConvertError("mlx_lm's 'gpt_neox' computes parallel residuals only; export 'mlx-exact'")


def _rope_kind(config: Json) -> str:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return str(rope.get("rope_type", rope.get("type", "default")))


def _config(model: Model, config: Json) -> Json:
    """config.json with the fields by the names that mlx_lm reads (transformers 4's)."""
    if model.model_type in hybrid.KINDS:
        config = hybrid.flat_config(model, config)
    out = {k: v for k, v in config.items() if k not in ("quantization", "quantization_config", "model_file")}
    out["model_type"] = hybrid.KINDS.get(model.model_type, model.model_type)
    out["tie_word_embeddings"] = model.head == model.embedding
    ropes = config.get("rope_parameters") or {}
    nested = isinstance(ropes.get("full_attention"), dict)
    rope = ropes["full_attention"] if nested else ropes
    if "rope_theta" in rope:
        out["rope_theta"] = out["rotary_emb_base"] = rope["rope_theta"]
    kind = rope.get("rope_type", "default")
    out["rope_scaling"] = {**rope, "type": kind} if kind != "default" else config.get("rope_scaling")
    if "partial_rotary_factor" in rope:
        out["partial_rotary_factor"] = out["rotary_pct"] = rope["partial_rotary_factor"]
    if nested and "sliding_attention" in ropes:
        out["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
    windows = [b.window for b in model.blocks if isinstance(b, Attention)]
    if model.model_type in ("llama", "mistral"):
        everywhere = all(windows)  # its code wants a layer that sees everything; up to the window all do
        out["layer_types"] = ["full_attention" if everywhere or not w else "sliding_attention" for w in windows]
        out["sliding_window"] = max(windows) or None
        out["max_position_embeddings"] = _reach(model)
    if model.model_type in ("gemma3_text", "cohere2"):
        out["sliding_window_pattern"] = _pattern(windows)
    if model.model_type == "olmo3":
        out["layer_types"] = ["sliding_attention" if w else "full_attention" for w in windows]
    if model.model_type == "cohere2":
        out["head_dim"] = next(b.head_dim for b in model.blocks if isinstance(b, Attention))
    out["n_ctx"] = config.get("n_positions")
    out["num_experts"] = config.get("num_experts", config.get("num_local_experts"))
    group, bits = GROUP, 4  # a hint: mlx_lm finds those of each tensor from its shape
    out["quantization"] = {"group_size": group, "bits": bits}
    return {k: v for k, v in out.items() if v is not None}


def _reach(model: Model) -> int:
    """Tokens up to which the folder computes what the model does."""
    windows = [b.window for b in model.blocks if isinstance(b, Attention)]
    everywhere = model.model_type in ("llama", "mistral") and all(windows)
    switches = [r.switch_length for r in model.ropes if r.switch_length]  # mlx_lm changes frequencies otherwise
    return min([model.max_context, *switches, *(windows if everywhere else [])])


def _pattern(windows: list[int]) -> int:
    """Every how many layers one sees everything."""
    pattern = next((i + 1 for i, w in enumerate(windows) if not w), len(windows) + 1)
    if [bool(w) for w in windows] != [(i + 1) % pattern != 0 for i in range(len(windows))]:
        raise ConvertError("this model's code in mlx_lm wants full attention in every n-th layer; export 'mlx-exact'")
    return pattern
