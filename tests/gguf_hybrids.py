"""Hybrids as llama.cpp's converter writes them (`conversion/qwen.py`, `conversion/lfm2.py`), for `gguf_files`."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
LINEAR = ("qwen3next", "qwen35", "qwen35moe")
TILED = ("qwen35", "qwen35moe")


def hyperparameters(w: Any, name: str, c: dict[str, Any]) -> None:
    """What hybrids have besides the rest."""
    if name in LINEAR:
        w.add_ssm_conv_kernel(c["linear_conv_kernel_dim"])
        w.add_ssm_state_size(c["linear_key_head_dim"])
        w.add_ssm_group_count(c["linear_num_key_heads"])
        w.add_ssm_time_step_rank(c["linear_num_value_heads"])
        w.add_ssm_inner_size(c["linear_value_head_dim"] * c["linear_num_value_heads"])
        w.add_full_attention_interval(4)
        w.add_rope_dimension_sections([2, 1, 1, 0])
        if "shared_expert_intermediate_size" in c:
            w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
    if name == "lfm2moe":
        w.add_leading_dense_block_count(c["num_dense_layers"])
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def tensors(name: str, c: dict[str, Any], key: str, values: F32) -> dict[str, F32] | None:
    """The tensors that one of transformers becomes; None if there is nothing special about it."""
    layer = key.split(".")[2] if key.startswith("model.layers.") else ""
    at = f"blk.{layer}."
    if ".experts." in key:
        if key.endswith("down_proj"):
            return {at + "ffn_down_exps.weight": values}
        gate, up = np.split(values, 2, axis=1)
        return {at + "ffn_gate_exps.weight": gate, at + "ffn_up_exps.weight": up}
    if key.endswith("expert_bias"):
        return {at + "exp_probs_b.bias": values}
    if key.endswith("shared_expert_gate.weight"):
        return {at + "ffn_gate_inp_shexp.weight": values[0]}
    if name not in LINEAR:
        return None
    if ".linear_attn." in key:
        return {at + stem: made for stem, made in _linear(name, c, key.split(".linear_attn.")[1], values).items()}
    return {_named(name, c, key): values + 1} if key.endswith("norm.weight") else None


def _named(name: str, c: dict[str, Any], key: str) -> str:
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == name)
    found = gguf.get_tensor_name_map(arch, c["num_hidden_layers"]).get_name(key, try_suffixes=(".weight",))
    assert found is not None, key
    return str(found)


def _linear(name: str, c: dict[str, Any], key: str, values: F32) -> dict[str, F32]:
    keys, heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
    key_dim, value_dim = c["linear_key_head_dim"], c["linear_value_head_dim"]
    group, channels = heads // keys, keys * key_dim

    def tiled(part: F32, size: int, axis: int = 0) -> F32:
        """`_reorder_v_heads`: grouped by key head to tiled."""
        if name not in TILED:
            return part
        shape = part.shape
        split = part.reshape(*shape[:axis], keys, group, size, *shape[axis + 1 :])
        return np.ascontiguousarray(split.swapaxes(axis, axis + 1)).reshape(shape)

    if key == "in_proj_qkvz.weight":
        by_head = values.reshape(keys, -1, values.shape[1])
        cuts = np.cumsum([key_dim, key_dim, group * value_dim])
        q, k, v, z = (p.reshape(-1, values.shape[1]) for p in np.split(by_head, cuts, axis=1))
        return {"attn_qkv.weight": np.concatenate([q, k, v]), "attn_gate.weight": z}
    if key == "in_proj_ba.weight":
        return {"ssm_ba.weight": values}
    if key == "in_proj_qkv.weight":
        rest = tiled(values[2 * channels :], value_dim)
        return {"attn_qkv.weight": np.concatenate([values[: 2 * channels], rest])}
    if key == "in_proj_z.weight":
        return {"attn_gate.weight": tiled(values, value_dim)}
    if key in ("in_proj_b.weight", "in_proj_a.weight"):
        return {"ssm_beta.weight" if key[8] == "b" else "ssm_alpha.weight": tiled(values, 1)}
    if key == "conv1d.weight":
        kernel = values.squeeze(1)
        return {"ssm_conv1d.weight": np.concatenate([kernel[: 2 * channels], tiled(kernel[2 * channels :], value_dim)])}
    if key == "out_proj.weight":
        return {"ssm_out.weight": tiled(values, value_dim, axis=1)}
    if key == "A_log":
        return {"ssm_a": tiled(-np.exp(values), 1)}
    if key == "dt_bias":
        return {"ssm_dt.bias": tiled(values, 1)}
    assert key == "norm.weight", key
    return {"ssm_norm.weight": values}
