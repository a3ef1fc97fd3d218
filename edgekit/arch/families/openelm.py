"""OpenELM (arXiv 2404.14619): the number of heads and the FFN size differ from layer to layer."""

from edgekit.arch.family import Family

OPENELM = Family(
    model_types=("openelm",),
    defaults={
        "activation_fn_name": "swish",
        "ffn_with_glu": True,
        "normalize_qk_projections": True,
        "share_input_output_layers": True,
        "ffn_dim_divisor": 256,
        "max_context_length": 2048,
        "rope_freq_constant": 10000,
        "rms_norm_eps": 1e-6,
    },
    fields={
        "hidden": "model_dim",
        "layers": "num_transformer_layers",
        "heads": "num_query_heads",
        "kv_heads": "num_kv_heads",
        "context": "max_context_length",
        "activation": "activation_fn_name",
        "rope_theta": "rope_freq_constant",
        "tied": "share_input_output_layers",
        "ffn_multipliers": "ffn_multipliers",
        "ffn_divisor": "ffn_dim_divisor",
    },
    prefixes=("transformer.", ""),
    tied_default=True,
    optional_norms={
        "layers.{i}.attn.q_norm": "normalize_qk_projections",
        "layers.{i}.attn.k_norm": "normalize_qk_projections",
    },
    required_values={"ffn_with_glu": (True,)},
    embed="token_embeddings",
    final_norm="norm",
    attention_norm="layers.{i}.attn_norm",
    qkv="layers.{i}.attn.qkv_proj",
    o="layers.{i}.attn.out_proj",
    q_norm="layers.{i}.attn.q_norm",
    k_norm="layers.{i}.attn.k_norm",
    ffn_norm="layers.{i}.ffn_norm",
    gate_up="layers.{i}.ffn.proj_1",
    down="layers.{i}.ffn.proj_2",
)
