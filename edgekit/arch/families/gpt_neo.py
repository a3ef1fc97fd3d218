"""GPT-Neo (Black et al., 2021): unscaled attention, every other layer local."""

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import COMMON, Family

GPT_NEO = Family(
    model_types=("gpt_neo",),
    defaults=defaults("gpt_neo"),
    aliases=aliases("gpt_neo"),
    reads=COMMON
    | {
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_heads",
        "max_position_embeddings",
        "activation_function",
        "layer_norm_epsilon",
        "window_size",
        "attention_types",
        "attention_layers",
    },
    fields={
        "layers": "num_layers",
        "heads": "num_heads",
        "activation": "activation_function",
        "eps": "layer_norm_epsilon",
        "window": "window_size",
    },
    prefixes=("transformer.", ""),
    o_bias="always",
    ffn_bias="always",
    embed="wte",
    position="wpe",
    final_norm="ln_f",
    attention_norm="h.{i}.ln_1",
    q="h.{i}.attn.attention.q_proj",
    k="h.{i}.attn.attention.k_proj",
    v="h.{i}.attn.attention.v_proj",
    o="h.{i}.attn.attention.out_proj",
    ffn_norm="h.{i}.ln_2",
    up="h.{i}.mlp.c_fc",
    down="h.{i}.mlp.c_proj",
    norm="layer",
    rope=False,
    scale="one",
    windows="attention_types",
)
