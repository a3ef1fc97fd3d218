"""Checkpoints that other tools quantized are read as the weights that those tools' own formulas give.

The packers here are transcribed from AutoGPTQ, AutoAWQ, compressed-tensors, bitsandbytes and transformers' BitNet; MLX
packs its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.weights import BundleWeights
from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.floats8 import E4M3
from edgekit.conversion import convert
from edgekit.errors import CheckpointError, EdgekitError, UnsupportedModelError
from tests import tiny

RANDOM = np.random.default_rng(2)
GROUP = 32
Array = npt.NDArray[Any]
SIZES: dict[str, Any] = {**tiny.GQA, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


def words(codes: Array, bits: int, order: tuple[int, ...] | None = None) -> Array:
    """Codes [n, m] in words i32 [n, m * bits / 32]; `order`: the code of each place of a word."""
    per = 32 // bits
    codes = codes.reshape(len(codes), -1, per).astype(np.uint32)
    out = np.zeros(codes.shape[:2], np.uint32)
    for place in range(per):
        out |= codes[:, :, order[place] if order else place] << np.uint32(bits * place)
    return out.view(np.int32)


def random_codes(rows: int, cols: int, bits: int) -> tuple[Array, Array, Array]:
    """Codes u8 [rows, cols], scales f16 and zero points u8 [rows, groups]."""
    codes = RANDOM.integers(0, 1 << bits, (rows, cols), dtype=np.uint8)
    scales = RANDOM.uniform(0.001, 0.01, (rows, cols // GROUP)).astype(np.float16)
    return codes, scales, RANDOM.integers(1, 1 << bits, (rows, cols // GROUP), dtype=np.uint8)


def weights_of(codes: Array, scales: Array, zeros: Array | float, size: int = GROUP) -> Array:
    def wide(values: Array | float) -> Array:
        return np.repeat(np.asarray(values, np.float32) * np.ones_like(scales, np.float32), size, axis=1)

    return wide(scales.astype(np.float32)) * (codes.astype(np.float32) - wide(zeros))


def gptq(weight: Array, bits: int, symmetric: bool, act_order: bool, less: int = 1) -> tuple[dict[str, Array], Array]:
    codes, scales, zeros = random_codes(*weight.shape, bits)
    zeros = np.full_like(zeros, 1 << (bits - 1)) if symmetric else zeros
    index = np.arange(weight.shape[1]) // GROUP
    want = weights_of(codes, scales, zeros)
    if act_order:
        index = RANDOM.permutation(index)
        want = scales.astype(np.float32)[:, index] * (codes.astype(np.float32) - zeros.astype(np.float32)[:, index])
    packed = words(np.ascontiguousarray(codes), bits).T
    parts = {
        "qweight": packed,
        "qzeros": words((zeros.T - less).astype(np.uint8), bits),
        "scales": scales.T,
        "g_idx": index.astype(np.int32),
    }
    return parts, want


def awq(weight: Array) -> tuple[dict[str, Array], Array]:
    codes, scales, zeros = random_codes(*weight.shape, 4)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    parts = {"qweight": words(codes.T, 4, order), "qzeros": words(zeros.T, 4, order), "scales": scales.T}
    return parts, weights_of(codes, scales, zeros)


def compressed(weight: Array, kind: str) -> tuple[dict[str, Array], Array]:
    if kind == "fp8":
        raw = torch.from_numpy(weight).to(torch.float8_e4m3fn)
        scale = RANDOM.uniform(0.5, 2, (len(weight), 1)).astype(np.float32)
        return {"weight": raw, "weight_scale": scale}, raw.float().numpy() * scale
    bits = 8 if kind == "int8" else 4
    codes, scales, _ = random_codes(*weight.shape, bits)
    shape = np.array(weight.shape, np.int64)
    if kind == "int8":
        scales = scales[:, :1]
        parts = {"weight": (codes.astype(np.int16) - 128).astype(np.int8), "weight_scale": scales}
        return parts, weights_of(codes, scales, 128, weight.shape[1])
    return {"weight_packed": words(codes, 4), "weight_scale": scales, "weight_shape": shape}, weights_of(
        codes, scales, 8
    )


def bitsandbytes(weight: Array, nested: bool) -> tuple[dict[str, Array], Array]:
    codes = RANDOM.integers(0, 16, weight.size, dtype=np.uint8)
    table = np.sort(RANDOM.uniform(-1, 1, 16)).astype(np.float32)
    blocks = weight.size // 64
    absmax = RANDOM.uniform(0.01, 0.1, blocks).astype(np.float32)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
    parts: dict[str, Array] = {".quant_map": table, ".absmax": absmax}
    if nested:
        many, outer = RANDOM.uniform(-1, 1, 256).astype(np.float32), RANDOM.uniform(0.1, 1, -(-blocks // 256))
        parts |= {".absmax": RANDOM.integers(0, 256, blocks, dtype=np.uint8), ".nested_quant_map": many}
        parts[".nested_absmax"] = outer.astype(np.float32)
        state |= {"nested_blocksize": 256, "nested_offset": 0.05, "nested_dtype": "float32"}
        spread = np.repeat(parts[".nested_absmax"], 256)[:blocks]
        absmax = many[parts[".absmax"]] * spread + np.float32(0.05)
    parts[".quant_state.bitsandbytes__nf4"] = np.array(list(json.dumps(state).encode()), np.uint8)
    parts[""] = (codes[0::2] << 4 | codes[1::2]).reshape(-1, 1)
    return {f"weight{end}": values for end, values in parts.items()}, (table[codes] * np.repeat(absmax, 64)).reshape(
        weight.shape
    )


def mlx(weight: Array, bits: int) -> tuple[dict[str, Array], Array]:
    core = pytest.importorskip("mlx.core")
    parts = [np.array(x) for x in core.quantize(core.array(weight.astype(np.float16)), GROUP, bits)]
    whole = core.dequantize(
        *(core.array(p.astype(np.float32) if p.dtype == np.float16 else p) for p in parts), GROUP, bits
    )
    return dict(zip(("weight", "scales", "biases"), parts, strict=True)), np.array(whole)


def bitnet(weight: Array, divides: bool) -> tuple[dict[str, Array], Array]:
    """As transformers' pack_weights: byte r has rows r, r + n, r + 2 n and r + 3 n of a matrix of 4 n rows."""
    ternary = RANDOM.integers(-1, 2, weight.shape)
    quarter = len(weight) // 4
    packed = np.zeros((quarter, weight.shape[1]), np.uint8)
    for i in range(4):
        packed |= (ternary[i * quarter : (i + 1) * quarter] + 1).astype(np.uint8) << np.uint8(2 * i)
    scale = np.array([8.0 if divides else 0.125], np.float32)
    return {"weight": packed, "weight_scale": scale}, (ternary * 0.125).astype(np.float32)


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gptq4": (lambda w: gptq(w, 4, True, False), {"quant_method": "gptq", "bits": 4, "group_size": GROUP}),
    "gptq8": (lambda w: gptq(w, 8, False, False), {"quant_method": "gptq", "bits": 8, "group_size": GROUP}),
    "gptq_v2": (
        lambda w: gptq(w, 4, False, False, 0),
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
    ),
    "gptq_act_order": (lambda w: gptq(w, 4, False, True), {"quant_method": "gptq", "bits": 4, "group_size": GROUP}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}),
    **{
        f"compressed_{kind}": (
            lambda w, kind=kind: compressed(w, kind),
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4 if kind == "int4" else 8}}},
            },
        )
        for kind in ("int4", "int8", "fp8")
    },
    "bitnet": (lambda w: bitnet(w, True), {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}),
    "bitnet_auto": (
        lambda w: bitnet(w, False),
        {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
    ),
    "nf4": (lambda w: bitsandbytes(w, False), {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "nf4_nested": (lambda w: bitsandbytes(w, True), {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    **{f"mlx{bits}": (lambda w, bits=bits: mlx(w, bits), {"mlx": True, "bits": bits}) for bits in (2, 3, 4, 5, 6, 8)},
}
KEPT = (
    "gptq4",
    "bitnet",
    "bitnet_auto",
    "compressed_int4",
    "compressed_int8",
    "mlx2",
    "mlx3",
    "mlx4",
    "mlx5",
    "mlx6",
    "mlx8",
)


def quantized(folder: Path, method: str) -> dict[str, Array]:
    """Makes a checkpoint whose linear layers are packed; returns the weights that they stand for."""
    pack, config = METHODS[method]
    tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**SIZES), dtype=torch.float32).save_pretrained(folder)
    tensors, want = load_file(folder / "model.safetensors"), {}
    for name in [n for n in tensors if n.endswith("_proj.weight")]:
        parts, want[name] = pack(tensors.pop(name).numpy())
        stem = name.removesuffix("weight")
        for part, values in parts.items():
            whole = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
            tensors[stem + part] = whole
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stored = json.loads((folder / "config.json").read_text())
    own = {"quantization": {"group_size": GROUP, "bits": config["bits"]}} if "mlx" in config else {}
    (folder / "config.json").write_text(json.dumps(stored | (own or {"quantization_config": config})))
    return want


@pytest.mark.parametrize("method", METHODS)
def test_packed_weights_are_those_of_the_method(method: str, tmp_path: Path) -> None:
    want = quantized(tmp_path / "checkpoint", method)
    opened = open_checkpoint(tmp_path / "checkpoint")
    assert describe_checkpoint(opened)[1] == ()
    for name, values in want.items():
        tensor = opened.tensor(name)
        assert np.array_equal(tensor.read(), values), name
        assert np.array_equal(tensor.read(3, 17), values[3:17]), name
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    gate, up, down = BundleWeights(done.path).matrix("layers.1.ffn")
    for part, ours in (("gate", gate), ("up", up), ("down", down.T)):
        assert np.array_equal(ours, want[f"model.layers.1.mlp.{part}_proj.weight"])
    assert "quant" not in (done.path / "tokenizer/config.json").read_text()


@pytest.mark.parametrize("method", KEPT)
def test_kept_weights_stay_equal(method: str, tmp_path: Path) -> None:
    want = quantized(tmp_path / "checkpoint", method)
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "keep")
    weights = BundleWeights(done.path)
    assert weights.matrix_entry("layers.0.q")["parts"][0]["codec"] == "affine"
    assert done.losses is not None
    assert (done.losses.rounded, done.losses.anew) == (0, 2)
    for part in "qkvo":
        assert np.array_equal(
            weights.matrix(f"layers.0.{part}")[0], want[f"model.layers.0.self_attn.{part}_proj.weight"]
        )
    gate, up, _ = weights.matrix("layers.1.ffn")
    assert np.array_equal(gate, want["model.layers.1.mlp.gate_proj.weight"])
    assert np.array_equal(up, want["model.layers.1.mlp.up_proj.weight"])


def test_zero_points_of_their_own_are_kept_but_for_rounding(tmp_path: Path) -> None:
    want = quantized(tmp_path / "checkpoint", "awq")
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "keep")
    assert done.losses is not None
    assert done.losses.rounded == 12
    assert 0 < done.losses.rounded_error < 1e-3
    ours = BundleWeights(done.path).matrix("layers.0.q")[0]
    assert np.abs(ours - want["model.layers.0.self_attn.q_proj.weight"]).max() < 1e-4


def test_floats_of_eight_bits_are_those_of_torch() -> None:
    want = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(E4M3, want, equal_nan=True)


def test_variants_that_are_not_read_are_refused_by_name(tmp_path: Path) -> None:
    quantized(tmp_path, "gptq4")
    stored = json.loads((tmp_path / "config.json").read_text())
    for change, message in (({"bits": 3}, "GPTQ with 3 bits"), ({"group_size": "x"}, "group_size of the quantization")):
        changed = stored | {"quantization_config": stored["quantization_config"] | change}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UnsupportedModelError, match=message):
            open_checkpoint(tmp_path)


def test_weights_that_bitnet_rounds_while_it_computes_are_refused(tmp_path: Path) -> None:
    tiny.make("bitnet", tmp_path / "checkpoint")
    config = tmp_path / "checkpoint" / "config.json"
    online = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": online}))
    with pytest.raises(UnsupportedModelError, match="while BitNet computes"):
        open_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("method", METHODS)
def test_parts_that_do_not_go_together_are_refused(method: str, tmp_path: Path) -> None:
    quantized(tmp_path, method)
    tensors = load_file(tmp_path / "model.safetensors")
    broken = [n for n in tensors if "layers.1.mlp.up_proj." in n and not n.endswith(("g_idx", "weight_shape"))]
    for name in broken:
        cut = tensors[name][1:].clone() if tensors[name].dim() else tensors[name]
        save_file(tensors | {name: cut}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EdgekitError) as found:
            describe_checkpoint(open_checkpoint(tmp_path))
        assert isinstance(found.value, CheckpointError | UnsupportedModelError)
        assert "\n" not in str(found.value)
