"""OPT (arXiv 2205.01068); positions are offset by two, the 350M size projects its embedding."""

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import COMMON, Family

OPT = Family(
    model_types=("opt",),
    defaults=defaults("opt"),
    aliases=aliases("opt"),
    reads=COMMON
    | {
        "hidden_size",
        "ffn_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "activation_function",
        "enable_bias",
        "do_layer_norm_before",
        "word_embed_proj_dim",
    },
    fields={"ffn": "ffn_dim", "activation": "activation_function"},
    prefixes=("model.decoder.", "decoder.", ""),
    qkv_bias="enable_bias",
    o_bias="enable_bias",
    ffn_bias="enable_bias",
    optional_norms={"final_layer_norm": "do_layer_norm_before"},
    required_values={"layer_norm_elementwise_affine": (True,), "_remove_final_layer_norm": (False,)},
    embed="embed_tokens",
    position="embed_positions",
    position_offset=2,
    project_in="project_in",
    project_out="project_out",
    final_norm="final_layer_norm",
    attention_norm="layers.{i}.self_attn_layer_norm",
    q="layers.{i}.self_attn.q_proj",
    k="layers.{i}.self_attn.k_proj",
    v="layers.{i}.self_attn.v_proj",
    o="layers.{i}.self_attn.out_proj",
    ffn_norm="layers.{i}.final_layer_norm",
    up="layers.{i}.fc1",
    down="layers.{i}.fc2",
    norm="layer",
    eps=1e-5,
    norm_order="config",
    rope=False,
)
