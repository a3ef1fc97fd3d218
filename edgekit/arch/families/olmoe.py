"""OLMoE (arXiv 2409.02060): 64 experts, norms over whole queries and keys."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

OLMOE = replace(
    LLAMA,
    model_types=("olmoe",),
    defaults=defaults("olmoe"),
    aliases=aliases("olmoe"),
    reads=DECODER | {"head_dim", "attention_bias", "num_experts", "num_experts_per_tok", "norm_topk_prob"},
    fields={"experts": "num_experts", "expert_size": "intermediate_size"},
    ffn_bias="",
    required_values={"clip_qkv": (None,)},
    q_norm="layers.{i}.self_attn.q_norm",
    k_norm="layers.{i}.self_attn.k_norm",
    qk_norm_per_head=False,
    gate="",
    up="",
    router="layers.{i}.mlp.gate",
    expert_gate="layers.{i}.mlp.experts.{e}.gate_proj",
    expert_up="layers.{i}.mlp.experts.{e}.up_proj",
    expert_down="layers.{i}.mlp.experts.{e}.down_proj",
    normalize_experts="config",
)
