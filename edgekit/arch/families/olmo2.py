"""OLMo 2 and 3 (arXiv 2501.00656, 2512.13961): norms after each sublayer, and over whole queries and keys."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

OLMO2 = replace(
    LLAMA,
    model_types=("olmo2",),
    defaults=defaults("olmo2"),
    aliases=aliases("olmo2"),
    reads=DECODER | {"head_dim", "attention_bias"},
    ffn_bias="",
    attention_norm="",
    attention_post_norm="layers.{i}.post_attention_layernorm",
    ffn_norm="",
    ffn_post_norm="layers.{i}.post_feedforward_layernorm",
    q_norm="layers.{i}.self_attn.q_norm",
    k_norm="layers.{i}.self_attn.k_norm",
    qk_norm_per_head=False,
)

OLMO3 = replace(
    OLMO2,
    model_types=("olmo3",),
    defaults=defaults("olmo3"),
    aliases=aliases("olmo3"),
    reads=OLMO2.reads | {"sliding_window", "layer_types"},
    windows="layer_types",
    window_pattern=4,
    rope_by_kind=True,
)
