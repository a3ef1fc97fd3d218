"""GPT-2 (Radford et al., 2019): fused, transposed projections and learned positions."""

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import COMMON, Family

GPT2 = Family(
    model_types=("gpt2",),
    defaults=defaults("gpt2"),
    aliases=aliases("gpt2"),
    reads=COMMON
    | {
        "n_embd",
        "n_layer",
        "n_head",
        "n_inner",
        "n_positions",
        "activation_function",
        "layer_norm_epsilon",
        "scale_attn_weights",
        "scale_attn_by_inverse_layer_idx",
    },
    fields={
        "hidden": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "ffn": "n_inner",
        "context": "n_positions",
        "activation": "activation_function",
        "eps": "layer_norm_epsilon",
    },
    prefixes=("transformer.", ""),
    qkv_bias="always",
    o_bias="always",
    ffn_bias="always",
    embed="wte",
    position="wpe",
    final_norm="ln_f",
    attention_norm="h.{i}.ln_1",
    qkv="h.{i}.attn.c_attn",
    o="h.{i}.attn.c_proj",
    ffn_norm="h.{i}.ln_2",
    up="h.{i}.mlp.c_fc",
    down="h.{i}.mlp.c_proj",
    norm="layer",
    rope=False,
    conv1d=True,
)
