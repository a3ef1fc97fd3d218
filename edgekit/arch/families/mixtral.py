"""Mixtral (arXiv 2401.04088)."""

from dataclasses import replace

from edgekit.arch.families.llama import MISTRAL

MIXTRAL = replace(
    MISTRAL,
    model_types=("mixtral",),
    defaults={
        **MISTRAL.defaults,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    fields={"experts": "num_local_experts", "expert_size": "intermediate_size"},
    gate="",
    up="",
    router="layers.{i}.block_sparse_moe.gate",
    expert_gate="layers.{i}.block_sparse_moe.experts.{e}.w1",
    expert_up="layers.{i}.block_sparse_moe.experts.{e}.w3",
    expert_down="layers.{i}.block_sparse_moe.experts.{e}.w2",
)
