"""Mixtral (arXiv 2401.04088)."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import MISTRAL

MIXTRAL = replace(
    MISTRAL,
    model_types=("mixtral",),
    defaults=defaults("mixtral"),
    aliases=aliases("mixtral"),
    reads=MISTRAL.reads | {"num_local_experts", "num_experts_per_tok"},
    fields={"experts": "num_local_experts", "expert_size": "intermediate_size"},
    gate="",
    up="",
    router="layers.{i}.block_sparse_moe.gate",
    expert_gate="layers.{i}.block_sparse_moe.experts.{e}.w1",
    expert_up="layers.{i}.block_sparse_moe.experts.{e}.w3",
    expert_down="layers.{i}.block_sparse_moe.experts.{e}.w2",
)
