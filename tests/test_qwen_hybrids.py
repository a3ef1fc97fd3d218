"""Qwen3-Next and Qwen3.5 in the forms of their checkpoints: nested, with pictures, stacked experts, a drafting head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from safetensors.numpy import load_file, save_file

from edgekit.arch import describe
from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.converters.base import export
from edgekit.converters.engines import open_engine
from edgekit.errors import ConvertError, UnsupportedModelError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

IDS = np.random.default_rng(6).integers(3, 180, 40).tolist()
VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
}
KINDS = {
    "qwen3_5": (tf.Qwen3_5Config, tf.Qwen3_5ForConditionalGeneration),
    "qwen3_5_moe": (tf.Qwen3_5MoeConfig, tf.Qwen3_5MoeForConditionalGeneration),
}


def make(name: str, folder: Path) -> Any:
    """Saves a random model with a vision part and returns it."""
    torch.manual_seed(0)
    of_config, of_model = KINDS[name]
    text = tiny.MAKERS[name]().to_dict()
    # As in released checkpoints.
    text |= {"attn_output_gate": True, "mamba_ssm_dtype": "float32", "mtp_num_hidden_layers": 1}
    text["rope_parameters"] |= {"mrope_interleaved": True, "mrope_section": [2, 1, 1]}
    config = of_config(
        text_config=text, vision_config=VISION, image_token_id=190, video_token_id=191, vision_start_token_id=192,
        vision_end_token_id=193,
    )  # fmt: skip
    model = of_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    return model


def wanted(model: Any) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    return logits


def computed(bundle: Path) -> np.ndarray:
    with Session(bundle, Options(cache_type="f32")) as session:
        return session.logits(IDS)


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return bool(np.abs(got - want).max() <= 1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", KINDS)
def test_a_checkpoint_with_a_vision_part_converts_to_its_text_decoder(name: str, tmp_path: Path) -> None:
    model = make(name, tmp_path / "checkpoint")
    names = open_checkpoint(tmp_path / "checkpoint").tensors
    assert any(n.startswith("model.visual.") for n in names)
    assert any(n.startswith("model.language_model.") for n in names)
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    assert len(done.warnings) == 1
    assert "vision part" in done.warnings[0]
    want = wanted(model)
    assert close(computed(done.path), want)
    export(done.path, "mlx")
    engine = open_engine(done.path, "mlx", Options(), check=True)
    assert close(engine(IDS), want)
    engine.close()


def test_experts_may_be_stacked(tmp_path: Path) -> None:
    model = make("qwen3_5_moe", tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "model.safetensors"
    tensors = load_file(file)
    for i in range(4):
        at = f"model.language_model.layers.{i}.mlp.experts."
        experts = [[tensors.pop(f"{at}{e}.{part}_proj.weight") for part in ("gate", "up", "down")] for e in range(6)]
        tensors[f"{at}gate_up_proj"] = np.stack([np.concatenate(both[:2]) for both in experts])
        tensors[f"{at}down_proj"] = np.stack([down for _, _, down in experts])
    save_file(tensors, file, metadata={"format": "pt"})
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    assert close(computed(bundle), wanted(model))
    with pytest.raises(ConvertError, match="stacks are not written for mlx_lm"):
        export(bundle, "mlx")


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5"])
def test_the_drafting_head_is_left_out_with_one_line(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path)
    plain, _ = describe_checkpoint(open_checkpoint(tmp_path))
    file = tmp_path / "model.safetensors"
    more = {"mtp.fc.weight": np.zeros((64, 128), np.float32), "mtp.norm.weight": np.zeros(64, np.float32)}
    save_file(load_file(file) | more, file, metadata={"format": "pt"})
    model, lines = describe_checkpoint(open_checkpoint(tmp_path))
    assert model == plain
    assert len(lines) == 1
    assert "the 2 tensors of the multi-token prediction head are left out" in lines[0]


def test_layers_follow_the_interval_where_they_are_not_listed(tmp_path: Path) -> None:
    tiny.make("qwen3_next", tmp_path)
    opened = open_checkpoint(tmp_path)
    shapes = {n: t.shape for n, t in opened.tensors.items()}
    want = describe(opened.config, shapes)
    # The first release's config: no list of layers, rope at the top.
    config = {k: v for k, v in opened.config.items() if k not in ("layer_types", "rope_parameters")}
    config |= {"full_attention_interval": 4, "rope_theta": 10000.0, "rope_scaling": None, "partial_rotary_factor": 0.25}
    assert describe(config, shapes) == want
    del config["full_attention_interval"], config["partial_rotary_factor"]
    assert describe(config, shapes) == want


def test_a_gate_of_another_kind_is_refused(tmp_path: Path) -> None:
    tiny.make("qwen3_5", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change in ({"attn_output_gate": False}, {"output_gate_type": "sigmoid"}):
        path.write_text(json.dumps(config | change))
        with pytest.raises(UnsupportedModelError, match=next(iter(change))):
            describe_checkpoint(open_checkpoint(tmp_path))
