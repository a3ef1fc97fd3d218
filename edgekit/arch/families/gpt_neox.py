"""GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): partial rotary, parallel residual."""

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import DECODER, Family

GPT_NEOX = Family(
    model_types=("gpt_neox",),
    defaults=defaults("gpt_neox"),
    aliases=aliases("gpt_neox"),
    reads=(DECODER - {"rms_norm_eps", "rope_theta", "num_key_value_heads"})
    | {
        "layer_norm_eps",
        "rotary_pct",
        "rotary_emb_base",
        "attention_bias",
        "use_parallel_residual",
    },
    fields={"eps": "layer_norm_eps", "partial_rotary": "rotary_pct", "rope_theta": "rotary_emb_base"},
    prefixes=("gpt_neox.", ""),
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    ffn_bias="always",
    partial_rotary=True,
    head="embed_out",
    embed="embed_in",
    final_norm="final_layer_norm",
    attention_norm="layers.{i}.input_layernorm",
    qkv="layers.{i}.attention.query_key_value",
    qkv_layout="per_head",
    o="layers.{i}.attention.dense",
    ffn_norm="layers.{i}.post_attention_layernorm",
    up="layers.{i}.mlp.dense_h_to_4h",
    down="layers.{i}.mlp.dense_4h_to_h",
    norm="layer",
    parallel="config",
)
