"""Llama and Mistral (arXiv 2302.13971, 2310.06825)."""

from dataclasses import replace

from edgekit.arch.family import Family

LLAMA = Family(
    model_types=("llama",),
    defaults={"rms_norm_eps": 1e-6, "hidden_act": "silu", "max_position_embeddings": 2048},
    prefixes=("model.", ""),
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    ffn_bias="mlp_bias",
    embed="embed_tokens",
    final_norm="norm",
    attention_norm="layers.{i}.input_layernorm",
    q="layers.{i}.self_attn.q_proj",
    k="layers.{i}.self_attn.k_proj",
    v="layers.{i}.self_attn.v_proj",
    o="layers.{i}.self_attn.o_proj",
    ffn_norm="layers.{i}.post_attention_layernorm",
    gate="layers.{i}.mlp.gate_proj",
    up="layers.{i}.mlp.up_proj",
    down="layers.{i}.mlp.down_proj",
)

MISTRAL = replace(
    LLAMA,
    model_types=("mistral",),
    defaults={**LLAMA.defaults, "sliding_window": 4096, "max_position_embeddings": 131072},
    qkv_bias="",
    o_bias="",
    ffn_bias="",
    windows="all",
)
