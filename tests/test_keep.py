"""--recipe keep: quantized weights of a checkpoint stay equal, where a codec of ours holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers as tf

from edgekit.bundle.weights import BundleWeights
from edgekit.checkpoint import open_checkpoint, to_f32
from edgekit.checkpoint.gguf_kept import KEPT
from edgekit.checkpoint.gguf_types import KINDS
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import gguf_files, tiny

RANDOM = np.random.default_rng(3)
EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32", "MXFP4", "TQ1_0", "TQ2_0")
WIDE: dict[str, Any] = {**tiny.GQA, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}


def kept(name: str) -> Any:
    return next(k for k in KINDS.values() if k.name == name)


@pytest.mark.parametrize("name", KEPT)
def test_arrays_of_blocks_are_the_weights_of_the_blocks(name: str) -> None:
    kind = kept(name)
    blocks = RANDOM.integers(0, 256, (64, kind.bytes), dtype=np.uint8)
    for at in {"Q8_0": (0,), "MXFP4": (), "TQ1_0": (52,), "TQ2_0": (64,)}.get(
        name, (0, 2)
    ):  # scales of usual size, of both signs
        scales = RANDOM.normal(size=(64, 1)) if at != 2 or name.endswith(("1", "K")) else None
        if scales is not None:
            blocks[:, at : at + 2] = scales.astype("<f2").view(np.uint8)
    if name == "MXFP4":
        blocks[:, 0] = RANDOM.integers(113, 130, 64)
        blocks[0] = 0
    codec, cols = KEPT[name].codec, 4 * kind.values
    arrays = KEPT[name].rows(blocks, 16)
    records = codec.pack(arrays, cols)
    got = codec.decode(records, cols, KEPT[name].shared.get("lut"))
    want = kind.rows(blocks.reshape(16, -1))
    if KEPT[name].exact:
        assert np.array_equal(got, want)
    else:
        assert np.abs(got - want).max() <= 2e-3 * np.abs(want).max()


def expected(file: Path, name: str) -> np.ndarray[Any, Any]:
    tensor = open_checkpoint(file).tensor(name)
    return to_f32(tensor.read(), tensor.dtype)


@pytest.mark.parametrize("kind", EXACT)
def test_a_bundle_holds_the_weights_of_the_file(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**WIDE), dtype=torch.float32).eval()
    file = gguf_files.write(tmp_path / "m.gguf", model, gguf_files.matrices_as(gguf.GGMLQuantizationType[kind]))
    done = convert(file, tmp_path / "bundle")
    weights = BundleWeights(done.path)
    for layer in range(2):
        for ours, theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "o_proj")):
            want = expected(file, f"model.layers.{layer}.self_attn.{theirs}.weight")
            assert np.array_equal(weights.matrix(f"layers.{layer}.{ours}")[0], want)
        gate, up, down = weights.matrix(f"layers.{layer}.ffn")
        assert np.array_equal(gate, expected(file, f"model.layers.{layer}.mlp.gate_proj.weight"))
        assert np.array_equal(up, expected(file, f"model.layers.{layer}.mlp.up_proj.weight"))
        want = expected(file, f"model.layers.{layer}.mlp.down_proj.weight").T
        plain = kind in ("F16", "BF16", "F32")
        assert np.array_equal(down, want) if plain else np.abs(down - want).max() <= 0.01 * np.abs(want).max()
    assert np.array_equal(weights.matrix("embedding")[0], expected(file, "model.embed_tokens.weight"))
    assert done.losses is not None
    assert (done.losses.rounded, done.losses.anew) == (0, 0 if plain else 2)
    assert (0 < done.losses.anew_error < 0.01) != plain
    assert bool(done.losses.line()) != plain
    ids = RANDOM.integers(3, 199, 20).tolist()
    with (
        Session(done.path, Options(cache_type="f32")) as kept_session,
        Session(convert(file, tmp_path / "plain", "f32").path, Options(cache_type="f32")) as plain_session,
    ):
        want = plain_session.logits(ids)
        assert np.abs(kept_session.logits(ids) - want).max() <= (1e-4 if plain else 0.05) * np.abs(want).max()


def test_kinds_without_a_codec_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**WIDE), dtype=torch.float32).eval()
    file = gguf_files.write(tmp_path / "m.gguf", model, blocks_of({"q_proj": "Q4_K", "k_proj": "Q6_K"}))
    assert main(["convert", str(file), "-o", str(tmp_path / "bundle")]) == 0
    output = capsys.readouterr().out
    assert "2 keep their codes with scales rounded to f16 (0.0" in output
    assert "2 are encoded anew at 8 bits (0." in output


def blocks_of(kinds: dict[str, str]) -> gguf_files.KindOf:
    """F32, but for tensors of some names, whose values are thrown away for random blocks."""
    named = {"q_proj": "attn_q.", "k_proj": "attn_k."}

    def choose(name: str, values: Any) -> gguf.GGMLQuantizationType:
        found = [k for part, k in kinds.items() if named[part] in name]
        return gguf.GGMLQuantizationType[found[0]] if found else gguf.GGMLQuantizationType.F32

    return choose


def test_experts_in_mxfp4_are_kept(tmp_path: Path) -> None:
    config = tf.GptOssConfig(**{**tiny.GQA, "head_dim": 32}, num_local_experts=4, num_experts_per_tok=2)
    model = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    def kind_of(name: str, values: Any) -> gguf.GGMLQuantizationType:
        experts = name.endswith("_exps.weight")
        return gguf.GGMLQuantizationType.MXFP4 if experts else gguf.GGMLQuantizationType.F32

    file = gguf_files.write(tmp_path / "m.gguf", model, kind_of)
    weights = BundleWeights(convert(file, tmp_path / "bundle").path)
    gate, up, _ = weights.matrix("layers.1.ffn.2")
    both = expected(file, "model.layers.1.mlp.experts.gate_up_proj_blocks")[2]
    assert np.array_equal(gate, both[0::2])
    assert np.array_equal(up, both[1::2])


def test_scales_beyond_the_codec_are_refused() -> None:
    blocks = np.zeros((1, 34), np.uint8)
    blocks[:, :2] = np.array([[60000.0]], "<f2").view(np.uint8)
    with pytest.raises(ConvertError, match="too large to be kept"):
        KEPT["Q8_0"].rows(blocks, 1)
    blocks = np.zeros((1, 66), np.uint8)
    blocks[:, 64:] = np.array([[np.inf]], "<f2").view(np.uint8)
    with pytest.raises(ConvertError, match="too large to be kept"):
        KEPT["TQ2_0"].rows(blocks, 1)
    with pytest.raises(ConvertError, match="beyond those that can be kept"):
        KEPT["MXFP4"].rows(np.full((1, 17), 200, np.uint8), 1)


def test_a_file_can_be_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tf.AutoModelForCausalLM.from_config(tf.LlamaConfig(**WIDE), dtype=torch.float32)
    kind_of = gguf_files.matrices_as(gguf.GGMLQuantizationType.Q8_0)
    file = gguf_files.write(tmp_path / "m.gguf", model, kind_of)
    assert main(["inspect", str(file), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["default_recipe"] == "keep"
    assert seen["dtypes"] == {"Q8_0": 16, "F32": 5}


def test_training_wants_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "text.txt").write_text("text")
    command = ["relufy", str(tmp_path / "m.gguf"), "-o", str(tmp_path / "out"), "--text", str(tmp_path / "text.txt")]
    assert main(command) != 0
    assert "is no folder; relufy trains" in capsys.readouterr().err
