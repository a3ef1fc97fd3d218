"""Checkpoints in MXFP4 are read as the numbers that they hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.weights import BundleWeights
from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.mxfp4 import decode
from edgekit.conversion import convert
from edgekit.errors import CheckpointError, ConvertError, UnsupportedModelError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

RANDOM = np.random.default_rng(5)
PROJECTIONS = ("gate_up_proj", "down_proj")


def pack(folder: Path, model: torch.nn.Module) -> None:
    """Gives a gpt-oss model random experts in MXFP4, and stores them so beside the model's other tensors."""
    tensors = load_file(folder / "model.safetensors")
    for name, values in model.named_parameters():
        if not name.endswith(PROJECTIONS):
            continue
        experts, inputs, outputs = values.shape
        del tensors[name]
        blocks = RANDOM.integers(0, 256, (experts, outputs, inputs // 32, 16), dtype=np.uint8)
        scales = RANDOM.integers(121, 125, (experts, outputs, inputs // 32), dtype=np.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        with torch.no_grad():
            values.copy_(convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)).float())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    packed = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": packed}))


def test_values_are_those_of_transformers() -> None:
    blocks = RANDOM.integers(0, 256, (2, 6, 3, 16), dtype=np.uint8)
    scales = RANDOM.integers(100, 140, (2, 6, 3), dtype=np.uint8)
    made = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
    assert np.array_equal(decode(blocks, scales), made.transpose(1, 2).numpy())


def test_a_packed_checkpoint_computes_what_transformers_computes(tmp_path: Path) -> None:
    model = tiny.make("gpt_oss", tmp_path / "checkpoint")
    pack(tmp_path / "checkpoint", model)
    assert describe_checkpoint(open_checkpoint(tmp_path / "checkpoint"))[1] == ()
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    ids = RANDOM.integers(3, 199, 30).tolist()
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    with Session(bundle, Options(cache_type="f32")) as session:
        got = np.concatenate([session.logits(ids[:20]), *(session.logits([i]) for i in ids[20:])])
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    # Of expert 3: gate, up, and down by columns, exactly.
    gate, up, down = BundleWeights(bundle).matrix("layers.1.ffn.3")
    both = model.model.layers[1].mlp.experts.gate_up_proj[3].detach().numpy()
    assert np.array_equal(gate, both[:, 0::2].T)
    assert np.array_equal(up, both[:, 1::2].T)
    assert np.array_equal(down, model.model.layers[1].mlp.experts.down_proj[3].detach().numpy())


def test_experts_stay_as_they_are(tmp_path: Path) -> None:
    model = tiny.make("gpt_oss", tmp_path / "checkpoint")
    pack(tmp_path / "checkpoint", model)
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "keep")
    weights = BundleWeights(done.path)
    for layer in range(4):
        experts = model.model.layers[layer].mlp.experts
        for e in range(4):
            gate, up, down = weights.matrix(f"layers.{layer}.ffn.{e}")
            both = experts.gate_up_proj[e].detach().numpy()
            assert np.array_equal(gate, both[:, 0::2].T)
            assert np.array_equal(up, both[:, 1::2].T)
            want = experts.down_proj[e].detach().numpy()
            assert np.abs(down - want).max() <= 0.01 * np.abs(want).max()  # lies the other way: 8 bits anew
    parts = weights.matrix_entry("layers.0.ffn.0")["parts"]
    assert [(p["codec"], p["bits"]) for p in parts] == [("scaled_palette", 4), ("scaled_palette", 4), ("affine", 8)]
    assert done.losses is not None
    assert (done.losses.rounded, done.losses.anew) == (0, 16)


def test_scales_that_no_codec_has_are_refused(tmp_path: Path) -> None:
    model = tiny.make("gpt_oss", tmp_path / "checkpoint")
    pack(tmp_path / "checkpoint", model)
    file = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.experts.gate_up_proj_scales"][:] = 150
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ConvertError, match="beyond those that can be kept"):
        convert(tmp_path / "checkpoint", tmp_path / "bundle", "keep")


def test_blocks_and_scales_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    model = tiny.make("gpt_oss", tmp_path)
    pack(tmp_path, model)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.experts.down_proj_scales"
    save_file(tensors | {name: tensors[name][:, 1:].copy()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="are no MXFP4 tensor"):
        open_checkpoint(tmp_path)


def test_other_packings_stay_refused(tmp_path: Path) -> None:
    tiny.make("gpt_oss", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for packed in ({"quant_method": "gptq"}, {"quant_method": None}, 5, ["mxfp4"], {"quant_method": ["mxfp4"]}):
        (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": packed}))
        with pytest.raises(UnsupportedModelError, match="quantization_config"):
            describe_checkpoint(open_checkpoint(tmp_path))
