"""Gemma 4, the text decoder: embeddings for each layer, keys and values that layers share, heads of two sizes."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.gemma3 import GEMMA3
from edgekit.arch.family import DECODER

GEMMA4 = replace(
    GEMMA3,
    model_types=("gemma4_text",),
    defaults=defaults("gemma4_text"),
    aliases=aliases("gemma4_text"),
    reads=(DECODER - {"hidden_act"})
    | {
        "hidden_activation",
        "head_dim",
        "attention_bias",
        "sliding_window",
        "layer_types",
        "final_logit_softcapping",
        "global_head_dim",
        "num_global_key_value_heads",
        "per_layer_config",
        "attention_k_eq_v",
        "num_kv_shared_layers",
        "use_double_wide_mlp",
        "hidden_size_per_layer_input",
        "vocab_size_per_layer_input",
    },
    harmless=frozenset({"num_experts", "top_k_experts", "moe_intermediate_size"}),  # without enable_moe_block
    required_values={"use_bidirectional_attention": (None, False, "vision"), "enable_moe_block": (False, None)},
    window_pattern=6,
    norm_add=0.0,
    scale="one",
    v_unit=True,
    shared_kv=True,
    head_sizes_by_layer=True,
    layer_table="embed_tokens_per_layer",
    layer_project="per_layer_model_projection",
    layer_project_norm="per_layer_projection_norm",
    layer_gate="layers.{i}.per_layer_input_gate",
    layer_o="layers.{i}.per_layer_projection",
    layer_post_norm="layers.{i}.post_per_layer_input_norm",
    layer_scale="layers.{i}.layer_scalar",
)
