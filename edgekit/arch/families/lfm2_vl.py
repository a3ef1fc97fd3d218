"""What LFM2-VL sees with: SigLIP 2 (arXiv 2502.14786) on tiles of any shape, squares of patches, two layers."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families import idefics3
from edgekit.arch.family import VisionFamily

LFM2_VL = VisionFamily(
    model_types=("lfm2_vl",),
    kind="lfm2_vl",
    encoder=replace(
        idefics3.ENCODER,
        model_types=("siglip2_vision_model",),
        defaults=defaults("siglip2_vision_model"),
        aliases=aliases("siglip2_vision_model"),
        reads=(idefics3.ENCODER.reads - {"image_size"}) | {"num_patches"},
        prefixes=(
            "model.vision_tower.",
            "model.vision_tower.vision_model.",
            "vision_tower.",
            "vision_tower.vision_model.",
        ),
    ),
    token=("image_token_id", "image_token_index"),
    merge="downsample_factor",
    norm=("model.multi_modal_projector.layer_norm", "multi_modal_projector.layer_norm"),
    norm_kind="layer",
    project_in=("model.multi_modal_projector.linear_1", "multi_modal_projector.linear_1"),
    project_size=("projector_hidden_size", 2560),
    project_activation=("projector_hidden_act", "gelu"),
    project=("model.multi_modal_projector.linear_2", "multi_modal_projector.linear_2"),
    linear=True,
    patches="num_patches",
    settings=(
        "do_rescale",
        "do_normalize",
        "do_image_splitting",
        "min_tiles",
        "max_tiles",
        "use_thumbnail",
        "min_image_tokens",
        "max_image_tokens",
        "encoder_patch_size",
        "downsample_factor",
        "tile_size",
        "max_pixels_tolerance",
        "resample",
        "rescale_factor",
        "image_mean",
        "image_std",
    ),
)
