"""Gemma 3 (arXiv 2503.19786): the text decoder, and what it sees with: SigLIP, means of squares, a matrix."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families import idefics3
from edgekit.arch.family import DECODER, Family, VisionFamily

GEMMA3 = Family(
    model_types=("gemma3_text",),
    defaults=defaults("gemma3_text"),
    aliases=aliases("gemma3_text"),
    reads=(DECODER - {"hidden_act"})
    | {
        "hidden_activation",
        "head_dim",
        "attention_bias",
        "query_pre_attn_scalar",
        "sliding_window",
        "layer_types",
        "sliding_window_pattern",
        "rope_local_base_freq",
        "final_logit_softcapping",
        "attn_logit_softcapping",
    },
    fields={"activation": "hidden_activation"},
    harmless=frozenset({"_sliding_window_pattern"}),
    prefixes=("model.", "language_model.model.", "model.language_model.", ""),
    qkv_bias="attention_bias",
    o_bias="attention_bias",
    required_values={"use_bidirectional_attention": (False, None)},
    embed="embed_tokens",
    final_norm="norm",
    attention_norm="layers.{i}.input_layernorm",
    attention_post_norm="layers.{i}.post_attention_layernorm",
    q="layers.{i}.self_attn.q_proj",
    k="layers.{i}.self_attn.k_proj",
    v="layers.{i}.self_attn.v_proj",
    o="layers.{i}.self_attn.o_proj",
    q_norm="layers.{i}.self_attn.q_norm",
    k_norm="layers.{i}.self_attn.k_norm",
    ffn_norm="layers.{i}.pre_feedforward_layernorm",
    ffn_post_norm="layers.{i}.post_feedforward_layernorm",
    gate="layers.{i}.mlp.gate_proj",
    up="layers.{i}.mlp.up_proj",
    down="layers.{i}.mlp.down_proj",
    norm_add=1.0,
    scale="query_pre_attn_scalar",
    windows="layer_types",
    rope_by_kind=True,
    embedding_scaled=True,
)

VISION = VisionFamily(
    model_types=("gemma3",),
    kind="gemma3",
    encoder=replace(
        idefics3.ENCODER,
        model_types=("siglip_vision_model",),
        defaults=defaults("siglip_vision_model"),
        aliases=aliases("siglip_vision_model"),
        prefixes=(
            "vision_tower.",
            "vision_tower.vision_model.",
            "model.vision_tower.",
            "model.vision_tower.vision_model.",
        ),
    ),
    token=("image_token_index", "image_token_id"),
    merge="mm_tokens_per_image",
    merge_default=256,
    rows=True,
    mean=True,
    norm=("multi_modal_projector.mm_soft_emb_norm", "model.multi_modal_projector.mm_soft_emb_norm"),
    project=(
        "multi_modal_projector.mm_input_projection_weight",
        "model.multi_modal_projector.mm_input_projection_weight",
    ),
    project_turned=True,
    both_ways=True,
    marks=(("boi_token_index", 255_999), ("eoi_token_index", 256_000)),
    settings=(
        "do_resize",
        "do_rescale",
        "do_normalize",
        "do_pan_and_scan",
        "size",
        "resample",
        "rescale_factor",
        "image_mean",
        "image_std",
    ),
)
