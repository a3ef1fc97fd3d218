"""The experts that a calibration counts are those that the model chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgekit.bundle.weights import BundleWeights
from edgekit.calibrate.calibration import _routed
from edgekit.conversion import convert
from tests import tiny

BIASES = {"lfm2_moe": "feed_forward.expert_bias", "gpt_oss": "mlp.router.bias"}


@pytest.mark.parametrize("name", sorted(BIASES))
def test_a_bias_decides_which_experts_are_counted(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    file, tensor = tmp_path / "checkpoint" / "model.safetensors", f"model.layers.2.{BIASES[name]}"
    tensors = load_file(file)
    tensors[tensor][:] = 0
    tensors[tensor][[1, 3]] = 100.0
    save_file(tensors, file, metadata={"format": "pt"})
    weights = BundleWeights(convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path)
    block = [b for b in weights.data["model"]["blocks"] if b["kind"] == "experts"][2 if name == "gpt_oss" else 1]
    x = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    assert _routed(weights, block, x)[:, [1, 3]].all()
    assert _routed(weights, block, x).sum() == 100
