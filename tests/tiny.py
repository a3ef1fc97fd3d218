"""Tiny random checkpoints of every architecture, made by transformers, which is also their oracle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

SIZES: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
OPT: dict[str, Any] = {k: v for k, v in SIZES.items() if k != "intermediate_size"}
GQA: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
    "logits_scaling": 4.0,
}
HYBRID: dict[str, Any] = {
    "layer_types": ["full_attention"] * 3,
    "shared_intermediate_size": 80,
    "mamba_n_heads": 4,
    "mamba_d_state": 8,
}
LFM2: dict[str, Any] = dict(GQA)
# Gated DeltaNet: three layers of it, one that attends.
DELTA: dict[str, Any] = {
    **GQA,
    "num_hidden_layers": 4,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}
DELTA_MOE: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 80,
}
GEMMA4: dict[str, Any] = {
    **GQA,
    "num_hidden_layers": 6,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 9,
    "vocab_size_per_layer_input": 199,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
}
LONG = {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}

MAKERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaConfig(**GQA),
    "llama_mha": lambda: tf.LlamaConfig(**SIZES),
    "llama_tied_biased": lambda: tf.LlamaConfig(
        **GQA, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=32
    ),
    "llama_relu": lambda: tf.LlamaConfig(**{**GQA, "intermediate_size": 1500}, hidden_act="relu"),
    "opt_wide": lambda: tf.OPTConfig(**OPT, ffn_dim=2000, word_embed_proj_dim=64),
    "llama_relu2": lambda: tf.LlamaConfig(**GQA, hidden_act="relu2"),
    "llama_odd_sizes": lambda: tf.LlamaConfig(**{**GQA, "hidden_size": 60, "intermediate_size": 77, "head_dim": 10}),
    "llama_linear": lambda: tf.LlamaConfig(**GQA, **rope("linear", factor=4.0)),
    "llama_dynamic": lambda: tf.LlamaConfig(**{**GQA, "max_position_embeddings": 24}, **rope("dynamic", factor=4.0)),
    "llama_yarn": lambda: tf.LlamaConfig(**GQA, **rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama_llama3": lambda: tf.LlamaConfig(
        **GQA,
        **rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    "mistral": lambda: tf.MistralConfig(**GQA, sliding_window=9),
    "qwen2": lambda: tf.Qwen2Config(**GQA),
    "qwen2_windows": lambda: tf.Qwen2Config(**GQA, use_sliding_window=True, sliding_window=9, max_window_layers=1),
    "qwen3": lambda: tf.Qwen3Config(**GQA, head_dim=32),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **GQA,
        head_dim=32,
        query_pre_attn_scalar=24,
        sliding_window=9,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    ),
    "gemma4": lambda: tf.Gemma4TextConfig(
        **GEMMA4, num_kv_shared_layers=2, use_double_wide_mlp=True, hidden_size_per_layer_input=24
    ),
    "gemma4_keyed": lambda: tf.Gemma4TextConfig(
        **GEMMA4,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        hidden_size_per_layer_input=0,
        final_logit_softcapping=1.5,
    ),
    "phi3": lambda: tf.Phi3Config(**GQA),
    "phi3_longrope": lambda: tf.Phi3Config(
        **GQA, original_max_position_embeddings=24, **rope("longrope", original_max_position_embeddings=24, **LONG)
    ),
    "phi3_partial": lambda: tf.Phi3Config(**GQA, **rope("default", partial_rotary_factor=0.5)),
    "phi4_mini": lambda: tf.Phi3Config(
        **{**GQA, "max_position_embeddings": 96},
        tie_word_embeddings=True,
        original_max_position_embeddings=24,
        **rope(
            "longrope",
            partial_rotary_factor=0.75,
            original_max_position_embeddings=24,
            short_factor=[1.0 + i / 8 for i in range(6)],
            long_factor=[2.0 + i for i in range(6)],
        ),
    ),
    "olmo2": lambda: tf.Olmo2Config(**GQA),
    "opt": lambda: tf.OPTConfig(**OPT, ffn_dim=96, word_embed_proj_dim=64),
    "opt_post_norm_projected": lambda: tf.OPTConfig(
        **OPT, ffn_dim=96, word_embed_proj_dim=32, do_layer_norm_before=False
    ),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=199, n_embd=64, n_layer=3, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "gpt_neo": lambda: tf.GPTNeoConfig(
        vocab_size=199,
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        max_position_embeddings=128,
        window_size=9,
        attention_types=[[["global", "local"], 2]],
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**SIZES),
    "gpt_neox_serial": lambda: tf.GPTNeoXConfig(**SIZES, use_parallel_residual=False, rotary_pct=0.5),
    "mixtral": lambda: tf.MixtralConfig(**GQA, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "smollm3": lambda: tf.SmolLM3Config(**GQA, no_rope_layers=[1, 0, 1]),
    "smollm3_windows": lambda: tf.SmolLM3Config(
        **GQA, no_rope_layer_interval=2, use_sliding_window=True, sliding_window=9
    ),
    "olmo3": lambda: tf.Olmo3Config(**{**GQA, "num_hidden_layers": 4}, sliding_window=9),
    "olmo3_yarn": lambda: tf.Olmo3Config(
        **{**GQA, "num_hidden_layers": 4},
        sliding_window=9,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ),
    "granite": lambda: tf.GraniteConfig(**GQA, **GRANITE),
    "granitemoe": lambda: tf.GraniteMoeConfig(**GQA, **GRANITE, num_local_experts=4, num_experts_per_tok=2),
    "granitemoehybrid": lambda: tf.GraniteMoeHybridConfig(
        **GQA, **GRANITE, **HYBRID, num_local_experts=4, num_experts_per_tok=2, position_embedding_type="rope"
    ),
    "granitemoehybrid_dense": lambda: tf.GraniteMoeHybridConfig(**GQA, **GRANITE, **HYBRID, num_local_experts=0),
    "qwen2_moe": lambda: tf.Qwen2MoeConfig(
        **GQA,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=80,
        mlp_only_layers=[1],
    ),
    "qwen2_moe_windows": lambda: tf.Qwen2MoeConfig(
        **GQA,
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=32,
        norm_topk_prob=True,
        use_sliding_window=True,
        sliding_window=9,
        max_window_layers=2,
    ),
    "qwen2_moe_everywhere": lambda: tf.Qwen2MoeConfig(
        **GQA,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=32,
    ),
    "olmoe": lambda: tf.OlmoeConfig(**GQA, num_experts=6, num_experts_per_tok=2),
    "cohere2": lambda: tf.Cohere2Config(**{**GQA, "num_hidden_layers": 4}, sliding_window=9, logit_scale=0.25),
    "bitnet": lambda: tf.BitNetConfig(**{**GQA, "intermediate_size": 700}),
    "bitnet_biased": lambda: tf.BitNetConfig(**GQA, attention_bias=True, tie_word_embeddings=True, hidden_act="silu"),
    "nemotron": lambda: tf.NemotronConfig(**GQA),
    "nemotron_biased": lambda: tf.NemotronConfig(**GQA, attention_bias=True, mlp_bias=True, head_dim=32),
    "lfm2": lambda: tf.Lfm2Config(
        **LFM2, block_auto_adjust_ff_dim=False, layer_types=["conv", "full_attention", "conv"]
    ),
    "lfm2_biased": lambda: tf.Lfm2Config(
        **{**LFM2, "hidden_size": 56},
        full_attn_idxs=[1],
        conv_bias=True,
        conv_L_cache=4,
        block_multiple_of=24,
        tie_word_embeddings=False,
    ),
    "lfm2_moe": lambda: tf.Lfm2MoeConfig(
        **LFM2,
        layer_types=["conv", "full_attention", "conv"],
        moe_intermediate_size=48,
        num_experts=6,
        num_experts_per_tok=2,
        num_dense_layers=1,
        routed_scaling_factor=1.5,
    ),
    "gpt_oss": lambda: tf.GptOssConfig(
        **{**GQA, "num_hidden_layers": 4},
        head_dim=32,
        sliding_window=9,
        num_local_experts=4,
        num_experts_per_tok=2,
        swiglu_limit=1.5,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen3_next": lambda: tf.Qwen3NextConfig(**DELTA, **DELTA_MOE, mlp_only_layers=[1]),
    "qwen3_next_biased": lambda: tf.Qwen3NextConfig(
        **{**DELTA, "hidden_size": 60, "linear_key_head_dim": 10, "linear_num_value_heads": 2, "num_hidden_layers": 3},
        **DELTA_MOE,
        attention_bias=True,
        linear_conv_kernel_dim=3,
        full_attention_interval=2,
        norm_topk_prob=False,
    ),
    "qwen3_5": lambda: tf.Qwen3_5TextConfig(**DELTA),
    "qwen3_5_tied": lambda: tf.Qwen3_5TextConfig(
        **{**DELTA, "num_hidden_layers": 3, "linear_value_head_dim": 16},
        layer_types=["full_attention", "linear_attention", "linear_attention"],
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
    ),
    "qwen3_5_moe": lambda: tf.Qwen3_5MoeTextConfig(
        **{k: v for k, v in DELTA.items() if k != "intermediate_size"}, **DELTA_MOE
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(
        **GQA,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=48,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    ),
}


def make(name: str, folder: Path, dtype: torch.dtype = torch.float32, layers: int | None = None, **save: Any) -> Any:
    """Saves a random checkpoint to a folder and returns the model, in f32, for eager attention.

    `layers`: how many, for models whose layers are alike; None: as in MAKERS.
    """
    torch.manual_seed(0)
    config = MAKERS[name]()
    config.num_hidden_layers = config.num_hidden_layers if layers is None else layers
    config._attn_implementation = "eager"
    model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("expert_bias", "layer_scalar")):
                buffer.add_(torch.randn_like(buffer) * 0.1)
        for parameter in model.parameters():  # norms and biases must not stay at one and zero
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4.0)  # spreads the logits: weights of 0.02 leave everything near zero
    if dtype == torch.float32:
        model.save_pretrained(folder, **save)
        return model
    model.to(dtype).save_pretrained(folder, **save)
    # Read back: the cast also rounded the rotary frequencies of the model at hand, which no file holds.
    return tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
