"""What Idefics3 and SmolVLM see with (arXiv 2408.12637, 2504.05299): SigLIP, squares of patches, and a matrix."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.family import EncoderParts, Family, VisionFamily

ENCODER = Family(
    model_types=("idefics3_vision", "idefics3"),
    defaults=defaults("idefics3_vision"),
    aliases=aliases("idefics3_vision"),
    reads=frozenset(
        {
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_channels",
            "image_size",
            "patch_size",
            "hidden_act",
            "layer_norm_eps",
        }
    ),
    fields={"eps": "layer_norm_eps"},
    prefixes=("model.vision_model.", "vision_model."),
    embed="embeddings.patch_embedding",
    position="embeddings.position_embedding",
    final_norm="post_layernorm",
    attention_norm="encoder.layers.{i}.layer_norm1",
    q="encoder.layers.{i}.self_attn.q_proj",
    k="encoder.layers.{i}.self_attn.k_proj",
    v="encoder.layers.{i}.self_attn.v_proj",
    o="encoder.layers.{i}.self_attn.out_proj",
    ffn_norm="encoder.layers.{i}.layer_norm2",
    up="encoder.layers.{i}.mlp.fc1",
    down="encoder.layers.{i}.mlp.fc2",
    qkv_bias="always",
    o_bias="always",
    ffn_bias="always",
    norm="layer",
    rope=False,
    encoder=EncoderParts(embedding_norm=""),
)

IDEFICS3 = VisionFamily(
    model_types=("idefics3",),
    kind="idefics3",
    encoder=ENCODER,
    token=("image_token_id",),
    merge="scale_factor",
    project=("model.connector.modality_projection.proj", "connector.modality_projection.proj"),
    settings=(
        "do_resize",
        "do_image_splitting",
        "do_rescale",
        "do_normalize",
        "size",
        "max_image_size",
        "resample",
        "rescale_factor",
        "image_mean",
        "image_std",
    ),
)

SMOLVLM = replace(
    IDEFICS3,
    model_types=("smolvlm",),
    encoder=replace(
        ENCODER,
        model_types=("smolvlm_vision", "smolvlm"),
        defaults=defaults("smolvlm_vision"),
        aliases=aliases("smolvlm_vision"),
    ),
)
