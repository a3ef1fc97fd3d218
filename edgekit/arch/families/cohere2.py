"""Cohere 2 (Command R7B and A): attention and feed-forward side by side, layer norms without a bias, and no rotary
embedding in the layers that see everything."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

COHERE2 = replace(
    LLAMA,
    model_types=("cohere2",),
    defaults=defaults("cohere2"),
    aliases=aliases("cohere2"),
    reads=(DECODER - {"rms_norm_eps"})
    | {"layer_norm_eps", "logit_scale", "attention_bias", "sliding_window", "layer_types", "sliding_window_pattern"},
    harmless=frozenset(
        [
            "head_dim",
            "rotary_pct",
            "order_of_interleaved_layers",
            "position_embedding_type",
            "use_embedding_sharing",
            "use_parallel_block",
            "use_parallel_embedding",
            "use_qk_norm",
            "use_gated_activation",
            "layer_switch",
        ]
    ),
    fields={"eps": "layer_norm_eps"},
    ffn_bias="",
    norm="layer",
    norm_bias=False,
    ffn_norm="layers.{i}.input_layernorm",
    parallel="always",
    windows="layer_types",
    window_pattern=4,
    no_rope="full_attention",
    rope_interleaved=True,
)
