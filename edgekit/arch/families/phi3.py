"""Phi-3 and Phi-4-mini (arXiv 2404.14219): fused projections, LongRoPE."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

PHI3 = replace(
    LLAMA,
    model_types=("phi3",),
    defaults=defaults("phi3"),
    aliases=aliases("phi3"),
    reads=DECODER | {"head_dim", "sliding_window", "original_max_position_embeddings", "partial_rotary_factor"},
    qkv_bias="",
    o_bias="",
    ffn_bias="",
    partial_rotary=True,
    rope_aliases={"yarn": "longrope"},  # in older checkpoints, as transformers reads them
    q="",
    k="",
    v="",
    qkv="layers.{i}.self_attn.qkv_proj",
    gate="",
    up="",
    gate_up="layers.{i}.mlp.gate_up_proj",
    windows="all",
)
