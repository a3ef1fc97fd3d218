"""Granite 3 and the layers of Granite 4 that attend (IBM): multipliers on embedding, residual, scores and logits."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

MULTIPLIERS = frozenset({"embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"})

GRANITE = replace(
    LLAMA,
    model_types=("granite",),
    defaults=defaults("granite"),
    aliases=aliases("granite"),
    reads=DECODER | MULTIPLIERS | {"head_dim", "attention_bias", "mlp_bias"},
    scale="attention_multiplier",
)

GRANITE_MOE = replace(
    GRANITE,
    model_types=("granitemoe",),
    defaults=defaults("granitemoe"),
    aliases=aliases("granitemoe"),
    reads=DECODER | MULTIPLIERS | {"head_dim", "attention_bias", "num_local_experts", "num_experts_per_tok"},
    fields={"experts": "num_local_experts", "expert_size": "intermediate_size"},
    ffn_bias="",
    gate="",
    up="",
    router="layers.{i}.block_sparse_moe.router.layer",
    expert_gate_up="layers.{i}.block_sparse_moe.input_linear.weight",
    expert_down="layers.{i}.block_sparse_moe.output_linear.weight",
)

GRANITE_MOE_HYBRID = replace(
    GRANITE_MOE,
    model_types=("granitemoehybrid",),
    defaults=defaults("granitemoehybrid"),
    aliases=aliases("granitemoehybrid"),
    reads=GRANITE_MOE.reads | {"shared_intermediate_size", "layer_types", "position_embedding_type"},
    harmless=frozenset(
        [
            *(f"mamba_{name}" for name in ("n_heads", "n_groups", "d_state", "d_head", "d_conv", "expand")),
            *("mamba_chunk_size", "mamba_conv_bias", "mamba_proj_bias", "time_step_limit"),
            *("normalization_function", "init_method", "rope_theta_scaling"),
        ]
    ),
    fields={
        "experts": "num_local_experts",
        "expert_size": "intermediate_size",
        "shared_size": "shared_intermediate_size",
        "ffn": "shared_intermediate_size",
    },
    gate_up="layers.{i}.shared_mlp.input_linear",
    down="layers.{i}.shared_mlp.output_linear",
    shared_gate_up="layers.{i}.shared_mlp.input_linear",
    shared_down="layers.{i}.shared_mlp.output_linear",
    windows="layer_types",
    no_rope="position_embedding_type",
)
