"""convert --lora: adapters that PEFT saved are merged as PEFT merges them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import EdgekitError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import gguf_files, tiny

peft = pytest.importorskip("peft")
IDS = np.random.default_rng(1).integers(3, 199, 20).tolist()


def adapter(name: str, folder: Path, **settings: Any) -> Any:
    """Saves a tiny checkpoint and a random adapter for it; returns PEFT's merged model."""
    model = tiny.make(name, folder / "checkpoint")
    made = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=12, **settings))
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    made.save_pretrained(folder / "adapter")
    return made.merge_and_unload()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
        ("qwen2", {"target_modules": "all-linear", "use_rslora": True}),
        ("llama", {"target_modules": ["q_proj"], "alpha_pattern": {"layers.1.self_attn.q_proj": 30}}),
        ("llama", {"target_modules": ["up_proj"], "modules_to_save": ["lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ],
)
def test_a_merged_adapter_computes_what_peft_computes(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    want = gguf_files.logits_of(adapter(name, tmp_path, **settings), IDS)
    plain = convert(tmp_path / "checkpoint", tmp_path / "plain", "f32").path
    merged = convert(tmp_path / "checkpoint", tmp_path / "merged", "f32", lora=tmp_path / "adapter").path
    with Session(merged, Options(cache_type="f32")) as ours, Session(plain, Options(cache_type="f32")) as without:
        got, before = ours.logits(IDS), without.logits(IDS)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert np.abs(before - want).max() > 0.01 * np.abs(want).max()


def test_adapters_that_cannot_be_merged_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter("llama", tmp_path, target_modules=["q_proj"])
    checkpoint, folder = tmp_path / "checkpoint", tmp_path / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

    def refused(match: str) -> None:
        with pytest.raises(EdgekitError, match=match) as found:
            convert(checkpoint, tmp_path / "bundle", "f32", lora=folder)
        assert "\n" not in str(found.value)

    for change, match in (
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "'IA3', not LORA"),
        ({"bias": "all"}, "bias"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(config | change))
        refused(match)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": "x"}))
    refused("lora_alpha is x")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors | {name: tensors[name][:, 1:].clone()}, folder / "adapter_model.safetensors")
    refused("does not have the shape")
    save_file({k.replace("q_proj", "x_proj"): v for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    refused("which the checkpoint does not have")
    assert main(["convert", str(checkpoint), "-o", str(tmp_path / "b"), "--lora", str(tmp_path / "nowhere")]) != 0
    assert "no adapter_config.json" in capsys.readouterr().err
