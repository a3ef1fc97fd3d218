"""Gemma 3, the text decoder (arXiv 2503.19786)."""

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import DECODER, Family

GEMMA3 = Family(
    model_types=("gemma3_text",),
    defaults=defaults("gemma3_text"),
    aliases=aliases("gemma3_text"),
    reads=(DECODER - {"hidden_act"})
    | {
        "hidden_activation",
        "head_dim",
        "attention_bias",
        "query_pre_attn_scalar",
        "sliding_window",
        "layer_types",
        "sliding_window_pattern",
        "rope_local_base_freq",
        "final_logit_softcapping",
        "attn_logit_softcapping",
    },
    fields={"activation": "hidden_activation"},
    harmless=frozenset({"_sliding_window_pattern"}),
    prefixes=("model.", "language_model.model.", "model.language_model.", ""),
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    required_values={"use_bidirectional_attention": (False, None)},
    embed="embed_tokens",
    final_norm="norm",
    attention_norm="layers.{i}.input_layernorm",
    attention_post_norm="layers.{i}.post_attention_layernorm",
    q="layers.{i}.self_attn.q_proj",
    k="layers.{i}.self_attn.k_proj",
    v="layers.{i}.self_attn.v_proj",
    o="layers.{i}.self_attn.o_proj",
    q_norm="layers.{i}.self_attn.q_norm",
    k_norm="layers.{i}.self_attn.k_norm",
    ffn_norm="layers.{i}.pre_feedforward_layernorm",
    ffn_post_norm="layers.{i}.post_feedforward_layernorm",
    gate="layers.{i}.mlp.gate_proj",
    up="layers.{i}.mlp.up_proj",
    down="layers.{i}.mlp.down_proj",
    norm_add=1.0,
    scale="query_pre_attn_scalar",
    windows="layer_types",
    rope_by_kind=True,
    embedding_scaled=True,
)
