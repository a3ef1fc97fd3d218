"""A Gemma 3 checkpoint with a vision part, as transformers saves it, converts to its text decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.checkpoint import open_checkpoint
from edgekit.conversion import convert
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def make(folder: Path) -> Any:
    """Saves a random Gemma3ForConditionalGeneration and returns it."""
    torch.manual_seed(0)
    config = tf.Gemma3Config(
        text_config=tiny.MAKERS["gemma3"]().to_dict(),
        vision_config=VISION,
        mm_tokens_per_image=4,
        image_token_index=198,
        boi_token_index=197,
        eoi_token_index=196,
        eos_token_id=[1, 106],
    )
    model = tf.Gemma3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    return model


def test_its_text_logits_are_those_of_transformers(tmp_path: Path) -> None:
    model = make(tmp_path / "checkpoint")
    names = open_checkpoint(tmp_path / "checkpoint").tensors
    assert any("vision" in name for name in names)
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    assert any("vision part" in line for line in done.warnings)
    assert len(done.warnings) == 1
    ids = np.random.default_rng(6).integers(3, 190, 40).tolist()
    with torch.no_grad():
        want = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    with Session(tmp_path / "bundle.edgekit", Options(cache_type="f32")) as session:
        got = session.logits(ids)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("key", ["rms_norm_eps", "hidden_activation", "sliding_window", "query_pre_attn_scalar"])
def test_a_text_config_may_leave_out_what_transformers_takes_by_default(key: str, tmp_path: Path) -> None:
    make(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"][key] = tf.Gemma3TextConfig().to_dict()[key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    full, _ = describe_checkpoint(open_checkpoint(tmp_path))
    del config["text_config"][key]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert describe_checkpoint(open_checkpoint(tmp_path))[0] == full
