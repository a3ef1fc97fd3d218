"""config.json of a GGUF file: its hyperparameters under the names of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.checkpoint.gguf_file import GgufFile
from edgekit.checkpoint.gguf_names import ARCHITECTURES, Architecture
from edgekit.checkpoint.safetensors import Tensor, to_f32
from edgekit.errors import CheckpointError, UnsupportedModelError

Table = dict[str, Any]
SIZES = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "conv_L_cache": "shortconv.l_cache",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "num_dense_layers": "leading_dense_block_count",
    "linear_num_key_heads": "ssm.group_count",
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_key_head_dim": "ssm.state_size",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
}
SHORT, LONG, FACTORS = "rope_factors_short.weight", "rope_factors_long.weight", "rope_freqs.weight"
WIDEST_FACTORS = 1 << 12  # values of a table of rotary factors
GEMMA3_27B = 62  # layers; its scores have a scale of their own, which the file does not tell
WITHOUT_WINDOW = ("llama", "qwen2", "qwen3", "qwen3moe", "granite", "smollm3", "lfm2", "lfm2moe")


def architecture(file: GgufFile) -> tuple[str, Architecture]:
    """The architecture that a file names.

    Raises:
        UnsupportedModelError: none, or one that edgekit does not read.
    """
    named = file.metadata.get("general.architecture")
    if not isinstance(named, str) or named not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file.path}: architecture {str(named)[:50]!r} is not read from GGUF; these are: "
            f"{', '.join(ARCHITECTURES)}. Convert the original checkpoint instead"
        )
    if named == "llama" and file.metadata.get("llama.expert_count"):
        raise UnsupportedModelError(
            f"{file.path}: mixtures of architecture 'llama' are not read from GGUF; convert the original checkpoint"
        )
    return named, ARCHITECTURES[named]


def config_of(file: GgufFile, tensors: Mapping[str, Tensor]) -> Table:
    """The file's hyperparameters as a config.json; wrong values are left to those who read that.

    Args:
        file: its header.
        tensors: its tensors, under its own names.
    """
    name, arch = architecture(file)

    def value(key: str, otherwise: Any = None) -> Any:
        return file.metadata.get(f"{name}.{key}", otherwise)

    config: Table = {"model_type": arch.model_type}
    config |= {ours: value(theirs) for ours, theirs in SIZES.items() if value(theirs) is not None}
    if name in WITHOUT_WINDOW:
        config.pop("sliding_window", None)
    embedding = tensors.get("token_embd.weight")
    if embedding is not None:
        config["vocab_size"] = embedding.shape[0]
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if type(heads) is not int or type(hidden) is not int or heads < 1 or hidden < 1:
        raise CheckpointError(f"{file.path}: {name}.attention.head_count or {name}.embedding_length is missing")
    config.setdefault("num_key_value_heads", heads)
    head_dim = value("attention.key_length", hidden // heads)
    if arch.head_dim:
        config["head_dim"] = head_dim
    config["tie_word_embeddings"] = "output.weight" not in tensors
    for ours in ("bos", "eos"):
        token = file.metadata.get(f"tokenizer.ggml.{ours}_token_id")
        if _whole(token):
            config[f"{ours}_token_id"] = token
    config |= _rope(name, value, config, tensors, head_dim)
    config |= _own(name, value, config, tensors)
    return config


def _whole(value: object) -> bool:
    return type(value) is int and value > 0


def _factors(tensors: Mapping[str, Tensor], name: str) -> list[float] | None:
    tensor = tensors.get(name)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > WIDEST_FACTORS:
        raise CheckpointError(f"{tensor.path}: tensor '{name}' is no table of rotary factors")
    return [float(x) for x in to_f32(tensor.read(), tensor.dtype)]


def _rope(name: str, value: Any, config: Table, tensors: Mapping[str, Tensor], head_dim: Any) -> Table:
    """rope_scaling, and for Phi-3 what belongs to it."""
    context = config.get("max_position_embeddings")
    original = value("rope.scaling.original_context_length", context)
    if name == "phi3":
        out: Table = {"original_max_position_embeddings": original}
        turned = value("rope.dimension_count", head_dim)
        if _whole(turned) and _whole(head_dim):
            out["partial_rotary_factor"] = turned / head_dim
        short, long = _factors(tensors, SHORT), _factors(tensors, LONG)
        if short and long:
            scaling: Table = {"type": "longrope", "short_factor": short, "long_factor": long}
            attention = value("rope.scaling.attn_factor")
            out["rope_scaling"] = scaling if attention is None else scaling | {"attention_factor": attention}
        return out
    factors = _factors(tensors, FACTORS)
    if factors is not None:  # what llama.cpp makes of Llama 3's scaling: a divisor for each frequency
        return {
            "rope_scaling": {
                "rope_type": "longrope",
                "short_factor": factors,
                "long_factor": factors,
                "factor": 1.0,
                "attention_factor": value("rope.scaling.attn_factor", 1.0),
                "original_max_position_embeddings": context,
            }
        }
    kind, factor = value("rope.scaling.type", "none"), value("rope.scaling.factor")
    if kind == "none" or factor is None:
        return {}
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = original
        scaling["truncate"] = name != "gpt-oss"
    return {"rope_scaling": scaling}


def _own(name: str, value: Any, config: Table, tensors: Mapping[str, Tensor]) -> Table:
    """What one architecture alone has."""
    if name == "gemma3":
        layers, heads = config.get("num_hidden_layers"), config["num_attention_heads"]
        per_head = config["hidden_size"] // heads if layers == GEMMA3_27B else config["head_dim"]
        local = value("rope.freq_base_swa", 10000.0)
        return {
            "query_pre_attn_scalar": per_head,
            "rope_local_base_freq": local,
            "rope_theta": config.get("rope_theta", 1e6),
            "hidden_activation": "gelu_pytorch_tanh",
        }
    if name in ("qwen3next", "qwen35", "qwen35moe"):
        return _linear(name, value, config)
    if name in ("lfm2", "lfm2moe"):
        kv_heads = config["num_key_value_heads"]
        kinds = [("full_attention" if n else "conv") for n in kv_heads] if isinstance(kv_heads, list) else None
        most = max((n for n in kv_heads if type(n) is int), default=0) if isinstance(kv_heads, list) else kv_heads
        eps = config.pop("rms_norm_eps", None)
        own = {"block_auto_adjust_ff_dim": False} if name == "lfm2" else {"norm_topk_prob": True}
        return {"layer_types": kinds, "num_key_value_heads": most, "norm_eps": eps, **own}
    if name == "qwen3moe":
        return {"norm_topk_prob": True}
    if name == "gpt-oss":
        size = config.pop("moe_intermediate_size", config.get("intermediate_size"))
        return {"num_local_experts": config.pop("num_experts", None), "intermediate_size": size, "swiglu_limit": 7.0}
    if name in ("granite", "llama", "smollm3"):
        fields = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
        return {field: True for field, tensor in fields.items() if tensor in tensors}
    return {}


def _linear(name: str, value: Any, config: Table) -> Table:
    """Qwen3-Next and Qwen3.5: which layers are linear attention, and the sizes of those."""
    out: Table = {}
    inner, heads = value("ssm.inner_size"), config.get("linear_num_value_heads")
    if _whole(inner) and _whole(heads):
        out["linear_value_head_dim"] = inner // heads
    layers, more = config.get("num_hidden_layers"), value("nextn_predict_layers", 0)
    if _whole(layers) and _whole(more) and more < layers:
        out["num_hidden_layers"] = layers - more
    recurrent = value("attention.recurrent_layers")
    if isinstance(recurrent, list):
        kinds = ["linear_attention" if linear else "full_attention" for linear in recurrent]
        out["layer_types"] = kinds[: out.get("num_hidden_layers", len(kinds))]
    else:
        out["full_attention_interval"] = value("full_attention_interval", 4)
    turned, head_dim = value("rope.dimension_count"), config.get("head_dim")
    if _whole(turned) and _whole(head_dim):
        out["partial_rotary_factor"] = turned / head_dim
    if name == "qwen3next":
        out["norm_topk_prob"] = True
    if name != "qwen35":
        config.pop("intermediate_size", None)
    return out
