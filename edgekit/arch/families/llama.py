"""Llama and Mistral (arXiv 2302.13971, 2310.06825)."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import DECODER, Family

LLAMA = Family(
    model_types=("llama",),
    defaults=defaults("llama"),
    aliases=aliases("llama"),
    reads=DECODER | {"head_dim", "attention_bias", "mlp_bias"},
    prefixes=("model.", "", "model.text_model.", "text_model."),
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
    defaults=defaults("mistral"),
    aliases=aliases("mistral"),
    reads=DECODER | {"head_dim", "sliding_window"},
    qkv_bias="",
    o_bias="",
    ffn_bias="",
    windows="all",
)
