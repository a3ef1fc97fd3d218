"""SmolLM3 (Hugging Face, 2025): every fourth layer has no rotary embedding (arXiv 2501.18795)."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER, WINDOWS

SMOLLM3 = replace(
    LLAMA,
    model_types=("smollm3",),
    defaults=defaults("smollm3"),
    aliases=aliases("smollm3"),
    reads=DECODER
    | (WINDOWS - {"max_window_layers"})
    | {"head_dim", "attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval"},
    harmless=frozenset({"max_window_layers"}),
    windows="no_rope",
    no_rope="no_rope_layers",
)
