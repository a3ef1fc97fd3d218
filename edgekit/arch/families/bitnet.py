"""BitNet b1.58 (arXiv 2504.12285): ternary weights, squared ReLU, norms before the output and down projections."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

BITNET = replace(
    LLAMA,
    model_types=("bitnet",),
    defaults=defaults("bitnet"),
    aliases=aliases("bitnet"),
    reads=DECODER | {"head_dim", "attention_bias"},
    ffn_bias="",
    o_norm="layers.{i}.self_attn.attn_sub_norm",
    down_norm="layers.{i}.mlp.ffn_sub_norm",
)
