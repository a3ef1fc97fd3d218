"""OPT (arXiv 2205.01068); positions are offset by two, the 350M size projects its embedding."""

from edgekit.arch.family import Family

OPT = Family(
    model_types=("opt",),
    defaults={
        "activation_function": "relu",
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "word_embed_proj_dim": None,
    },
    fields={"ffn": "ffn_dim", "activation": "activation_function", "eps": "layer_norm_eps"},
    prefixes=("model.decoder.", "decoder.", ""),
    tied_default=True,
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
    norm_order="config",
    rope=False,
)
