"""GPT-2 (Radford et al., 2019): fused, transposed projections and learned positions."""

from edgekit.arch.family import Family

GPT2 = Family(
    model_types=("gpt2",),
    defaults={
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "n_inner": None,
        "n_positions": 1024,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
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
    tied_default=True,
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
