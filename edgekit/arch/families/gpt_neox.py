"""GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): partial rotary, parallel residual."""

from edgekit.arch.family import Family

GPT_NEOX = Family(
    model_types=("gpt_neox",),
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000.0,
        "max_position_embeddings": 2048,
        "attention_bias": True,
        "use_parallel_residual": True,
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
