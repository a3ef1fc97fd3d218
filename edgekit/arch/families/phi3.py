"""Phi-3 and Phi-4-mini (arXiv 2404.14219): fused projections, LongRoPE."""

from dataclasses import replace

from edgekit.arch.families.llama import LLAMA

PHI3 = replace(
    LLAMA,
    model_types=("phi3",),
    defaults={
        **LLAMA.defaults,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": None,
    },
    qkv_bias="",
    o_bias="",
    ffn_bias="",
    partial_rotary=True,
    q="",
    k="",
    v="",
    qkv="layers.{i}.self_attn.qkv_proj",
    gate="",
    up="",
    gate_up="layers.{i}.mlp.gate_up_proj",
    windows="all",
)
