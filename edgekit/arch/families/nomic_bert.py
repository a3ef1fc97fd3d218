"""Nomic BERT (arXiv 2402.01613): BERT with rotary positions, a gated feed-forward block and no biases. Tensors and
older config keys have the names of its published checkpoints, which transformers writes too."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.bert import BERT
from edgekit.arch.family import ENCODER, EncoderParts

NOMIC_BERT = replace(
    BERT,
    model_types=("nomic_bert",),
    defaults=defaults("nomic_bert"),
    aliases={
        **aliases("nomic_bert"),
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "layer_norm_eps",
        "rotary_emb_base": "rope_theta",
    },
    reads=ENCODER | {"head_dim", "rope_theta", "rope_parameters", "rope_scaling"},
    required_values={
        "activation_function": ("swiglu", None),
        "parallel_block": (False, None),
        "prenorm": (False, None),
        "rotary_emb_fraction": (1.0, None),
        "rotary_emb_interleaved": (False, None),
        "rotary_emb_scale_base": (None,),
        "use_rms_norm": (False, None),
        "qkv_proj_bias": (False, None),
        "mlp_fc1_bias": (False, None),
        "mlp_fc2_bias": (False, None),
    },
    harmless=BERT.harmless
    | {
        "rotary_scaling_factor",
        "max_trained_positions",
        "causal",
        "dense_seq_output",
        "fused_bias_fc",
        "fused_dropout_add_ln",
        "pad_vocab_size_multiple",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
        "use_xentropy",
    },
    prefixes=("nomic_bert.", ""),
    qkv_bias="",
    o_bias="",
    ffn_bias="",
    position="",
    attention_norm="encoder.layers.{i}.norm1",
    q="",
    k="",
    v="",
    qkv="encoder.layers.{i}.attn.Wqkv",
    o="encoder.layers.{i}.attn.out_proj",
    ffn_norm="encoder.layers.{i}.norm2",
    gate="encoder.layers.{i}.mlp.fc12",
    up="encoder.layers.{i}.mlp.fc11",
    down="encoder.layers.{i}.mlp.fc2",
    rope=True,
    encoder=EncoderParts(
        embedding_norm="emb_ln",
        token_types="embeddings.token_type_embeddings",
    ),
)
