"""Qwen2, Qwen2-MoE, Qwen3 and Qwen3-MoE (arXiv 2407.10671, 2505.09388)."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER, WINDOWS

QWEN2 = replace(
    LLAMA,
    model_types=("qwen2",),
    defaults=defaults("qwen2"),
    aliases=aliases("qwen2"),
    reads=DECODER | WINDOWS | {"head_dim"},
    qkv_bias="always",
    o_bias="",
    ffn_bias="",
    windows="layer_types",
)

QWEN3 = replace(
    QWEN2,
    model_types=("qwen3",),
    defaults=defaults("qwen3"),
    aliases=aliases("qwen3"),
    reads=QWEN2.reads | {"attention_bias"},
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    q_norm="layers.{i}.self_attn.q_norm",
    k_norm="layers.{i}.self_attn.k_norm",
)

QWEN3_MOE = replace(
    QWEN3,
    model_types=("qwen3_moe",),
    defaults=defaults("qwen3_moe"),
    aliases=aliases("qwen3_moe"),
    reads=DECODER
    | {
        "head_dim",
        "attention_bias",
        "sliding_window",
        "use_sliding_window",
        "num_local_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "decoder_sparse_step",
        "mlp_only_layers",
        "norm_topk_prob",
    },
    harmless=frozenset({"max_window_layers"}),
    fields={"experts": "num_local_experts", "expert_size": "moe_intermediate_size"},
    windows="all",
    router="layers.{i}.mlp.gate",
    expert_gate="layers.{i}.mlp.experts.{e}.gate_proj",
    expert_up="layers.{i}.mlp.experts.{e}.up_proj",
    expert_down="layers.{i}.mlp.experts.{e}.down_proj",
    normalize_experts="config",
)

QWEN2_MOE = replace(
    QWEN2,
    model_types=("qwen2_moe",),
    defaults=defaults("qwen2_moe"),
    aliases=aliases("qwen2_moe"),
    reads=DECODER
    | WINDOWS
    | {
        "head_dim",
        "qkv_bias",
        "num_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "decoder_sparse_step",
        "mlp_only_layers",
        "norm_topk_prob",
    },
    fields={
        "experts": "num_experts",
        "expert_size": "moe_intermediate_size",
        "shared_size": "shared_expert_intermediate_size",
    },
    qkv_bias="qkv_bias",
    windows="alternating",
    router="layers.{i}.mlp.gate",
    expert_gate="layers.{i}.mlp.experts.{e}.gate_proj",
    expert_up="layers.{i}.mlp.experts.{e}.up_proj",
    expert_down="layers.{i}.mlp.experts.{e}.down_proj",
    normalize_experts="config",
    shared_gate="layers.{i}.mlp.shared_expert.gate_proj",
    shared_up="layers.{i}.mlp.shared_expert.up_proj",
    shared_down="layers.{i}.mlp.shared_expert.down_proj",
    shared_router="layers.{i}.mlp.shared_expert_gate",
)
