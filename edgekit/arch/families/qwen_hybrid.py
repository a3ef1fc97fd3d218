"""Qwen3-Next, and the text decoders of Qwen3.5 and Qwen3.6: three layers of gated DeltaNet, one that attends."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.qwen import QWEN2_MOE, QWEN3
from edgekit.arch.family import DECODER

_READS = (
    DECODER
    | {"head_dim", "attention_bias", "layer_types", "full_attention_interval", "partial_rotary_factor"}
    | {"linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim"}
    | {"linear_conv_kernel_dim"}
)
_EXPERTS = {
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
}

QWEN3_5 = replace(
    QWEN3,
    model_types=("qwen3_5_text",),
    defaults=defaults("qwen3_5_text"),
    aliases=aliases("qwen3_5_text"),
    reads=_READS,
    # The first two are of the multi-token prediction head; the state has 32 bits here too.
    harmless=frozenset({"mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mamba_ssm_dtype"}),
    required_values={"attn_output_gate": (True, None), "output_gate_type": ("swish", "silu", None)},
    prefixes=("model.", "model.language_model.", "language_model.model.", ""),
    norm_add=1.0,
    windows="linear_interval",
    kinds=frozenset({"full_attention", "linear_attention"}),
    partial_rotary=True,
    q_gated=True,
    linear_qkv="layers.{i}.linear_attn.in_proj_qkv",
    linear_z="layers.{i}.linear_attn.in_proj_z",
    linear_b="layers.{i}.linear_attn.in_proj_b",
    linear_a="layers.{i}.linear_attn.in_proj_a",
    linear_conv="layers.{i}.linear_attn.conv1d",
    linear_norm="layers.{i}.linear_attn.norm",
    linear_o="layers.{i}.linear_attn.out_proj",
    linear_decay_log="layers.{i}.linear_attn.A_log",
    linear_decay_bias="layers.{i}.linear_attn.dt_bias",
)

QWEN3_5_MOE = replace(
    QWEN3_5,
    model_types=("qwen3_5_moe_text",),
    defaults=defaults("qwen3_5_moe_text"),
    aliases=aliases("qwen3_5_moe_text"),
    reads=(_READS - {"intermediate_size"}) | _EXPERTS,
    fields=QWEN2_MOE.fields,
    router=QWEN2_MOE.router,
    expert_gate=QWEN2_MOE.expert_gate,
    expert_up=QWEN2_MOE.expert_up,
    expert_down=QWEN2_MOE.expert_down,
    expert_gate_up="layers.{i}.mlp.experts.gate_up_proj",
    stacked_down="layers.{i}.mlp.experts.down_proj",
    normalize_experts="always",
    shared_gate=QWEN2_MOE.shared_gate,
    shared_up=QWEN2_MOE.shared_up,
    shared_down=QWEN2_MOE.shared_down,
    shared_router=QWEN2_MOE.shared_router,
)

QWEN3_NEXT = replace(
    QWEN3_5_MOE,
    model_types=("qwen3_next",),
    defaults=defaults("qwen3_next"),
    aliases=aliases("qwen3_next"),
    reads=_READS | _EXPERTS | {"decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"},
    prefixes=("model.", ""),
    normalize_experts="config",
    linear_qkv="",
    linear_z="",
    linear_b="",
    linear_a="",
    linear_qkvz="layers.{i}.linear_attn.in_proj_qkvz",
    linear_ba="layers.{i}.linear_attn.in_proj_ba",
)
