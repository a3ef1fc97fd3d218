"""Qwen2, Qwen3 and Qwen3-MoE (arXiv 2407.10671, 2505.09388)."""

from dataclasses import replace

from edgekit.arch.families.llama import LLAMA

QWEN2 = replace(
    LLAMA,
    model_types=("qwen2",),
    defaults={
        **LLAMA.defaults,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
    qkv_bias="always",
    o_bias="",
    ffn_bias="",
    windows="layer_types",
)

QWEN3 = replace(
    QWEN2,
    model_types=("qwen3",),
    defaults={**QWEN2.defaults, "head_dim": 128},
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    q_norm="layers.{i}.self_attn.q_norm",
    k_norm="layers.{i}.self_attn.k_norm",
)

QWEN3_MOE = replace(
    QWEN3,
    model_types=("qwen3_moe",),
    defaults={
        **LLAMA.defaults,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "head_dim": None,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": False,
    },
    fields={"experts": ("num_experts", "num_local_experts"), "expert_size": "moe_intermediate_size"},
    windows="all",
    router="layers.{i}.mlp.gate",
    expert_gate="layers.{i}.mlp.experts.{e}.gate_proj",
    expert_up="layers.{i}.mlp.experts.{e}.up_proj",
    expert_down="layers.{i}.mlp.experts.{e}.down_proj",
    normalize_experts="config",
)
