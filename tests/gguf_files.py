"""Tiny models as GGUF files, written with the `gguf` package by the conventions of llama.cpp's converter, and
llama.cpp itself as an oracle where llama-cpp-python is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests import gguf_hybrids

F32 = npt.NDArray[np.float32]
KindOf = Callable[[str, F32], gguf.GGMLQuantizationType]
TYPES = gguf.GGMLQuantizationType
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "granite": "granite",
    "smollm3": "smollm3",
    "lfm2": "lfm2",
    "lfm2_moe": "lfm2moe",
    "qwen3_next": "qwen3next",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "gpt_oss": "gpt-oss",
}
HYBRIDS = ("lfm2moe", *gguf_hybrids.LINEAR)
ROTATED = ("llama", "granite", "smollm3")
LLAMA_CPP = """
import json, sys
import numpy as np
import llama_cpp.llama_cpp
from llama_cpp import Llama
given = llama_cpp.llama_cpp.llama_model_default_params
def plain():  # without AMX, which virtual machines may name and not have
    params = given()
    params.use_extra_bufts = False
    return params
llama_cpp.llama_cpp.llama_model_default_params = plain
ids = json.loads(sys.argv[2])
model = Llama(sys.argv[1], n_ctx=128, n_threads=2, logits_all=True, verbose=False)
if isinstance(ids, str):
    print(json.dumps(model.tokenize(ids.encode(), add_bos=True, special=False)))
else:
    model.eval(ids)
    np.save(sys.argv[3], model.scores[: len(ids)])
"""


def permuted(weight: F32, heads: int) -> F32:
    """Rows of queries or keys as llama.cpp's converter puts them (`LlamaModel.permute`)."""
    shape = (heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)


def plain(name: str, values: F32) -> gguf.GGMLQuantizationType:
    """F32 for every tensor."""
    return TYPES.F32


def matrices_as(kind: gguf.GGMLQuantizationType) -> KindOf:
    """One kind for every matrix that has whole blocks, and F32 for the rest."""

    def choose(name: str, values: F32) -> gguf.GGMLQuantizationType:
        size = gguf.GGML_QUANT_SIZES[kind][0]
        return kind if values.ndim > 1 and "conv" not in name and values.shape[-1] % size == 0 else TYPES.F32

    return choose


def write(
    path: Path,
    model: Any,
    kind_of: KindOf = plain,
    extra: Callable[[Any], None] | None = None,
    split: int = 0,
    joined: bool = False,
) -> Path:
    """Writes a model of transformers to a GGUF file; returns its path.

    Args:
        path: of the file.
        model: of transformers.
        kind_of: the kind of each tensor.
        extra: adds metadata to a writer.
        split: tensors of a file, if there are to be several.
        joined: gate and up of experts are one tensor.
    """
    config = model.config.to_dict()
    name = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(path, name, split_max_tensors=split)
    _hyperparameters(writer, name, config)
    if extra is not None:
        extra(writer)
    tensors = _tensors(name, config, model.state_dict())
    for key in [k for k in tensors if joined and "ffn_gate_exps" in k]:
        pair = [tensors.pop(k) for k in (key, key.replace("gate", "up"))]
        tensors[key.replace("gate", "gate_up")] = np.concatenate(pair, axis=1)
    for key, values in tensors.items():
        kind = kind_of(key, values)
        data = np.ascontiguousarray(values, dtype=np.float32)
        if kind == TYPES.F32:
            writer.add_tensor(key, data)
        else:
            writer.add_tensor(key, blocks(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(values: F32, kind: gguf.GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    """Values in blocks; of kinds that gguf only reads, random blocks with scales of a usual size."""
    try:
        return gguf.quants.quantize(values, kind).view(np.uint8)
    except NotImplementedError:
        size, count = gguf.GGML_QUANT_SIZES[kind]
        made = np.random.default_rng(1).integers(0, 256, (values.size // size, count), dtype=np.uint8)
        small = np.array([0.001], "<f2").view(np.uint8)
        for at in {TYPES.Q4_K: (0, 2), TYPES.Q5_K: (0, 2), TYPES.Q6_K: (208,)}[kind]:
            made[:, at : at + 2] = small
        return made.reshape(*values.shape[:-1], -1)


def _hyperparameters(w: Any, name: str, c: dict[str, Any]) -> None:
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c.get("intermediate_size") or c["moe_intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    kv_heads = c["num_key_value_heads"]
    w.add_head_count_kv(
        [kv_heads * (k != "conv") for k in c["layer_types"]] if name in ("lfm2", "lfm2moe") else kv_heads
    )
    w.add_layer_norm_rms_eps(c.get("rms_norm_eps", c.get("norm_eps")))
    w.add_vocab_size(c["vocab_size"])
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    if name not in ("granite", "smollm3", "qwen2"):
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    rope = c.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    turned = rope.get("partial_rotary_factor", 1.0) if name in gguf_hybrids.LINEAR else 1.0
    w.add_rope_dimension_count(int(head_dim * turned))
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if name in ("gemma3", "gpt-oss", "phi3") and c.get("sliding_window"):
        w.add_sliding_window(c["sliding_window"])
    if name == "phi3":
        w.add_rope_scaling_orig_ctx_len(c["original_max_position_embeddings"])
    if c.get("num_experts") or c.get("num_local_experts"):
        w.add_expert_count(c.get("num_experts") or c["num_local_experts"])
        w.add_expert_used_count(c["num_experts_per_tok"])
        w.add_expert_feed_forward_length(c.get("moe_intermediate_size") or c["intermediate_size"])
    if name == "granite":
        w.add_attention_scale(c["attention_multiplier"])
        w.add_embedding_scale(c["embedding_multiplier"])
        w.add_residual_scale(c["residual_multiplier"])
        w.add_logit_scale(c["logits_scaling"])
    gguf_hybrids.hyperparameters(w, name, c)
    if name in ("lfm2", "lfm2moe"):
        w.add_shortconv_l_cache(c["conv_L_cache"])


def _tensors(name: str, c: dict[str, Any], state: dict[str, Any]) -> dict[str, F32]:
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == name)
    names = gguf.get_tensor_name_map(arch, c["num_hidden_layers"])
    out: dict[str, F32] = {}
    for key, tensor in state.items():
        values = tensor.detach().float().numpy()
        if key == "lm_head.weight" and c["tie_word_embeddings"]:
            continue
        special = gguf_hybrids.tensors(name, c, key, values) if name in HYBRIDS else None
        if special is not None:
            out |= special
            continue
        if ".mlp.experts." in key and name in ("qwen3moe", "gpt-oss"):
            out |= _experts(name, key, values)
            continue
        if key.endswith(".self_attn.sinks"):
            out[f"blk.{key.split('.')[2]}.attn_sinks.weight"] = values
            continue
        if ".mlp.router." in key:
            out[f"blk.{key.split('.')[2]}.ffn_gate_inp.{key.rsplit('.', 1)[1]}"] = values
            continue
        for part in ("q_proj", "k_proj"):
            if name in ROTATED and part in key:
                heads = c["num_attention_heads" if part == "q_proj" else "num_key_value_heads"]
                values = permuted(values, heads)
        if name == "gemma3" and key.endswith("norm.weight"):
            values = values + 1
        if ".conv.conv." in key:
            values = values.squeeze(1)
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert found is not None, key
        out[found] = values
    return out


def _experts(name: str, key: str, values: F32) -> dict[str, F32]:
    """Experts as transformers keeps them in memory, as llama.cpp wants them."""
    at = f"blk.{key.split('.')[2]}."
    if name == "qwen3moe":
        if key.endswith("down_proj"):
            return {at + "ffn_down_exps.weight": values}
        gate, up = np.split(values, 2, axis=1)
        return {at + "ffn_gate_exps.weight": gate, at + "ffn_up_exps.weight": up}
    end = "bias" if key.endswith("_bias") else "weight"
    if end == "weight":
        values = values.swapaxes(1, 2)
    if "down_proj" in key:
        return {f"{at}ffn_down_exps.{end}": values}
    return {f"{at}ffn_gate_exps.{end}": values[:, 0::2], f"{at}ffn_up_exps.{end}": values[:, 1::2]}


def vocabulary(size: int) -> Callable[[Any], None]:
    """Adds a SentencePiece vocabulary: llama.cpp wants one to open a file."""

    def add(w: Any) -> None:
        w.add_tokenizer_model("llama")
        tokens = ["<unk>", "<s>", "</s>"]
        while len(tokens) < size:
            tokens.append(f"t{len(tokens)}")
        w.add_token_list(tokens)
        w.add_token_scores([0.0] * size)
        w.add_token_types([2, 3, 3] + [1] * (size - 3))
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)

    return add


def logits_of(model: Any, ids: Sequence[int]) -> F32:
    """transformers' logits, f32 [len(ids), vocabulary]."""
    with torch.no_grad():
        out: F32 = model(torch.tensor([list(ids)])).logits[0].float().numpy()
    return out


def llama_cpp(path: Path, given: Sequence[int] | str) -> Any:
    """llama.cpp's logits f32 [len(ids), vocabulary] of ids, or the ids of a text; skips the test where it is missing.

    EDGEKIT_LLAMA_CPP names a Python that has llama-cpp-python; else this one is asked.
    """
    python = os.environ.get("EDGEKIT_LLAMA_CPP", "")
    if not python and importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    out = path.with_suffix(".npy")
    command = [python or sys.executable, "-c", LLAMA_CPP, str(path), json.dumps(given), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout) if isinstance(given, str) else np.load(out)
