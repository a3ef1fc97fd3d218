"""What a checkpoint must have, and config keys that change the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.arch import describe
from edgekit.arch.rope import frequencies
from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.safetensors import read_header
from edgekit.errors import CheckpointError, UnsupportedModelError
from tests import tiny


def parts(name: str, folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    tiny.make(name, folder)
    opened = open_checkpoint(folder)
    return dict(opened.config), {n: t.shape for n, t in opened.tensors.items()}


FAMILIES = [
    "llama_tied_biased",
    "llama",
    "qwen2",
    "qwen3",
    "gemma3",
    "olmo2",
    "opt",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "phi3",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_of_a_family_is_required(name: str, tmp_path: Path) -> None:
    config, shapes = parts(name, tmp_path)
    describe(config, shapes)
    for tensor in shapes:
        with pytest.raises(CheckpointError):
            describe(config, {n: s for n, s in shapes.items() if n != tensor})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("opt", {"layer_norm_elementwise_affine": False}),
        ("gemma3", {"use_bidirectional_attention": True}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": None}}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}),
        ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": "x"}}),
    ],
)
def test_keys_that_change_the_result_are_refused(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    config, shapes = parts(name, tmp_path)
    with pytest.raises(UnsupportedModelError):
        describe(config | change, shapes)


def test_llama_ignores_partial_rotary_as_transformers_does(tmp_path: Path) -> None:
    config, shapes = parts("llama", tmp_path)
    assert describe(config | {"partial_rotary_factor": 0.5}, shapes) == describe(config, shapes)


def test_linear_rope_keeps_a_context_that_is_long_already() -> None:
    assert frequencies({"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}, 16, 4096).max_context == 4096


@pytest.mark.parametrize(("name", "window"), [("mistral", 4096), ("mixtral", 0), ("qwen3_moe", 0)])
def test_windows_left_out_are_those_of_transformers(name: str, window: int, tmp_path: Path) -> None:
    config, shapes = parts(name, tmp_path)
    for key in ("sliding_window", "use_sliding_window"):
        config.pop(key, None)
    attention: Any = describe(config, shapes).blocks[0]
    assert attention.window == window


def test_eos_of_a_multimodal_config_is_kept(tmp_path: Path) -> None:
    config, shapes = parts("gemma3", tmp_path)
    shapes = {"language_model." + n: s for n, s in shapes.items()}
    text = {k: v for k, v in config.items() if k not in ("eos_token_id", "model_type")}
    assert describe({"model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106]}, shapes).eos_token_ids == (
        1,
        106,
    )


def test_names_in_the_index_that_no_file_has_are_an_error(tmp_path: Path) -> None:
    tiny.make("llama", tmp_path, max_shard_size="50KB")
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["ghost.weight"] = next(iter(table["weight_map"].values()))
    index.write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="ghost"):
        open_checkpoint(tmp_path)


def test_a_dtype_that_is_no_text_is_refused(tmp_path: Path) -> None:
    raw = json.dumps({"w": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
    with pytest.raises(CheckpointError):
        read_header(tmp_path / "w.safetensors")
