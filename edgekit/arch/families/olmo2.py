"""OLMo 2 (arXiv 2501.00656): norms after each sublayer, and over whole queries and keys."""

from dataclasses import replace

from edgekit.arch.families.llama import LLAMA

OLMO2 = replace(
    LLAMA,
    model_types=("olmo2",),
    defaults={**LLAMA.defaults, "rms_norm_eps": 1e-5},
    ffn_bias="",
    attention_norm="",
    attention_post_norm="layers.{i}.post_attention_layernorm",
    ffn_norm="",
    ffn_post_norm="layers.{i}.post_feedforward_layernorm",
    q_norm="layers.{i}.self_attn.q_norm",
    k_norm="layers.{i}.self_attn.k_norm",
    qk_norm_per_head=False,
)
