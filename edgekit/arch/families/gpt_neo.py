"""GPT-Neo (Black et al., 2021): unscaled attention, every other layer local."""

from edgekit.arch.family import Family

GPT_NEO = Family(
    model_types=("gpt_neo",),
    defaults={
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "intermediate_size": None,
        "window_size": 256,
        "max_position_embeddings": 2048,
        "attention_types": [[["global", "local"], 12]],
    },
    fields={
        "layers": "num_layers",
        "heads": "num_heads",
        "activation": "activation_function",
        "eps": "layer_norm_epsilon",
        "window": "window_size",
    },
    prefixes=("transformer.", ""),
    tied_default=True,
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
