"""What llama.cpp calls the tensors of our families: one table for each architecture of a GGUF file.

Names and conventions: `gguf/constants.py`, `gguf/tensor_mapping.py` and `convert_hf_to_gguf.py` of
https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ENDS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}


@dataclass(frozen=True)
class Architecture:
    """How an architecture of llama.cpp stands to a family of ours.

    Attributes:
        model_type: the family.
        ends: names of tensors outside layers, without ".weight".
        layer: names of tensors of a layer.
        rotates: queries and keys are stored for rotation of neighbours.
        norm_add: what the converter added to the weights of norms.
        experts: template of the names of experts' matrices, {e} the expert; "" for none.
        pairs: experts are those of gpt-oss: gate and up by turns in one tensor.
        head_dim: config.json of the family may have a head_dim.
        expert_names: of the matrices of an expert, by the file's.
        linear: it has linear attention, "grouped" or "tiled" (the order of value heads).
    """

    model_type: str
    ends: Mapping[str, str] = field(default_factory=lambda: ENDS)
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    rotates: bool = False
    norm_add: float = 0.0
    experts: str = ""
    pairs: bool = False
    head_dim: bool = True
    expert_names: Mapping[str, str] = field(default_factory=lambda: EXPERTS)
    linear: str = ""


_QWEN2 = Architecture("qwen2", head_dim=False)
_LFM2 = {
    "attn_norm": "operator_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "shortconv.conv": "conv.conv",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
_GEMMA3 = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_GPT_OSS = {
    "post_attention_norm": "post_attention_layernorm",
    "attn_post_norm": "post_attention_layernorm",
    "ffn_gate_inp": "mlp.router",
}
_NORM = "model.embedding_norm"
_QWEN3_NEXT = Architecture(
    "qwen3_next",
    layer=LAYER
    | {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_gate_inp": "mlp.gate",
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
        "ffn_up_shexp": "mlp.shared_expert.up_proj",
        "ffn_down_shexp": "mlp.shared_expert.down_proj",
    },
    norm_add=1.0,
    experts="mlp.experts.{e}",
    linear="grouped",
)
_LFM2_ARCHITECTURE = replace(
    _QWEN2, model_type="lfm2", ends=ENDS | {"token_embd_norm": _NORM, "output_norm": _NORM}, layer=LAYER | _LFM2
)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", rotates=True),
    "qwen2": _QWEN2,
    "qwen3": Architecture("qwen3"),
    "qwen3moe": Architecture("qwen3_moe", layer=LAYER | {"ffn_gate_inp": "mlp.gate"}, experts="mlp.experts.{e}"),
    "gemma3": Architecture("gemma3_text", layer=LAYER | _GEMMA3, norm_add=1.0),
    "phi3": Architecture(
        "phi3", layer=LAYER | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}, head_dim=False
    ),
    "granite": Architecture("granite", rotates=True, head_dim=False),
    "smollm3": Architecture("smollm3", rotates=True, head_dim=False),
    "lfm2": _LFM2_ARCHITECTURE,
    "lfm2moe": replace(
        _LFM2_ARCHITECTURE,
        model_type="lfm2_moe",
        layer=LAYER | _LFM2 | {"ffn_gate_inp": "feed_forward.gate", "exp_probs_b": "feed_forward.expert_bias"},
        experts="feed_forward.experts.{e}",
        expert_names={"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"},
    ),
    "qwen3next": _QWEN3_NEXT,
    "qwen35": replace(_QWEN3_NEXT, model_type="qwen3_5_text", linear="tiled"),
    "qwen35moe": replace(_QWEN3_NEXT, model_type="qwen3_5_moe_text", linear="tiled"),
    "gpt-oss": Architecture("gpt_oss", layer=LAYER | _GPT_OSS, pairs=True),
}
