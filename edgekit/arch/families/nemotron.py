"""Nemotron (arXiv 2402.16819): squared ReLU, layer norms of weight + 1, half of each head rotated."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

NEMOTRON = replace(
    LLAMA,
    model_types=("nemotron",),
    defaults=defaults("nemotron"),
    aliases=aliases("nemotron"),
    reads=(DECODER - {"rms_norm_eps"})
    | {"norm_eps", "head_dim", "attention_bias", "mlp_bias", "partial_rotary_factor"},
    fields={"eps": "norm_eps"},
    gate="",
    norm="layer",
    norm_add=1.0,
    partial_rotary=True,
)
