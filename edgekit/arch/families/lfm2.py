"""LFM2 and LFM2-MoE (arXiv 2511.23404): most layers are gated short convolutions, the others attend."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

OLDER = {"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"}

LFM2 = replace(
    LLAMA,
    model_types=("lfm2",),
    prefixes=("model.", "", "model.language_model.", "language_model.model.", "language_model."),
    defaults=defaults("lfm2"),
    aliases=aliases("lfm2") | OLDER,
    reads=(DECODER - {"rms_norm_eps", "hidden_act"})
    | {
        "norm_eps",
        "conv_L_cache",
        "conv_bias",
        "layer_types",
        "full_attn_idxs",
        "block_auto_adjust_ff_dim",
        "block_ffn_dim_multiplier",
        "block_multiple_of",
    },
    harmless=frozenset(
        [
            *("block_dim", "block_mlp_init_scale", "block_norm_eps", "block_out_init_scale", "block_use_swiglu"),
            *("block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init", "num_heads", "theta"),
            "use_pos_enc",
        ]
    ),
    fields={"eps": "norm_eps"},
    activation="silu",
    qkv_bias="",
    o_bias="",
    ffn_bias="",
    final_norm="embedding_norm",
    attention_norm="layers.{i}.operator_norm",
    o="layers.{i}.self_attn.out_proj",
    q_norm="layers.{i}.self_attn.q_layernorm",
    k_norm="layers.{i}.self_attn.k_layernorm",
    windows="full_attn_idxs",
    kinds=frozenset({"full_attention", "conv"}),
    conv_in="layers.{i}.conv.in_proj",
    conv="layers.{i}.conv.conv",
    conv_o="layers.{i}.conv.out_proj",
    conv_bias="conv_bias",
    ffn_norm="layers.{i}.ffn_norm",
    gate="layers.{i}.feed_forward.w1",
    up="layers.{i}.feed_forward.w3",
    down="layers.{i}.feed_forward.w2",
)

LFM2_MOE = replace(
    LFM2,
    model_types=("lfm2_moe",),
    defaults=defaults("lfm2_moe"),
    aliases=aliases("lfm2_moe") | {"tie_embedding": "tie_word_embeddings"},
    reads=(LFM2.reads - {"block_auto_adjust_ff_dim", "block_ffn_dim_multiplier", "block_multiple_of"})
    | {
        "moe_intermediate_size",
        "num_dense_layers",
        "num_experts",
        "num_experts_per_tok",
        "norm_topk_prob",
        "routed_scaling_factor",
        "use_expert_bias",
    },
    fields={"eps": "norm_eps", "experts": "num_experts", "expert_size": "moe_intermediate_size"},
    router="layers.{i}.feed_forward.gate",
    router_scores="sigmoid",
    choice_bias="layers.{i}.feed_forward.expert_bias",
    normalize_experts="config",
    normalize_eps=1e-6,
    expert_gate="layers.{i}.feed_forward.experts.{e}.w1",
    expert_up="layers.{i}.feed_forward.experts.{e}.w3",
    expert_down="layers.{i}.feed_forward.experts.{e}.w2",
)
