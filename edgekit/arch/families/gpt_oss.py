"""gpt-oss (arXiv 2508.10925): attention sinks, clamped gates and biases in experts, which may be stored in MXFP4."""

from dataclasses import replace

from edgekit.arch.defaults import aliases, defaults
from edgekit.arch.families.llama import LLAMA
from edgekit.arch.family import DECODER

GPT_OSS = replace(
    LLAMA,
    model_types=("gpt_oss",),
    defaults=defaults("gpt_oss"),
    aliases=aliases("gpt_oss"),
    reads=(DECODER - {"hidden_act"})
    | {
        "head_dim",
        "attention_bias",
        "sliding_window",
        "layer_types",
        "num_local_experts",
        "num_experts_per_tok",
        "swiglu_limit",
    },
    harmless=frozenset({"experts_per_token", "initial_context_length"}),
    required_values={"hidden_act": ("silu",), "swiglu_alpha": (1.702,)},
    fields={"experts": "num_local_experts", "expert_size": "intermediate_size"},
    activation="quick_gelu",
    ffn_bias="",
    gate="",
    up="",
    windows="layer_types",
    window_pattern=2,
    sinks="layers.{i}.self_attn.sinks",
    router="layers.{i}.mlp.router",
    expert_pairs="layers.{i}.mlp.experts.gate_up_proj",
    expert_down="layers.{i}.mlp.experts.down_proj",
    packed=frozenset({"mxfp4"}),
)
