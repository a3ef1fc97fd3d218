"""Bundles as GGUF files: tensors beside those of llama.cpp's conventions, kinds bit for bit, and llama.cpp's logits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers as tf

from edgekit.bundle.weights import BundleWeights
from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.gguf_types import KINDS
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.converters.base import Choices, export
from edgekit.converters.check import check, greedy
from edgekit.converters.gguf.blocks import decoded, encoded
from edgekit.converters.gguf.targets import TARGETS
from edgekit.errors import ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import families, gguf_files, openelm, tiny
from tests.conftest import DEMO
from tests.test_gguf import AS_LLAMA_CPP_HAS_IT, FAMILIES, tiny_model

RANDOM = np.random.default_rng(11)
FILE = "artifacts/gguf/model.gguf"
TEXT = "Once upon a time, there was a dog who didn't bark at 12 cats."


def logits(bundle: Path, ids: list[int]) -> np.ndarray:
    with Session(bundle, Options(cache_type="f32", activations="f32")) as session:
        return np.concatenate([session.logits(ids[:20]), *(session.logits([i]) for i in ids[20:])])


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file as gguf's own reader and decoder have it."""
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("name", FAMILIES)
def test_tensors_are_those_of_llama_cpps_converter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(name, tmp_path / "checkpoint", monkeypatch)
    want = tensors(gguf_files.write(tmp_path / "model.gguf", model))
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    artifact = export(bundle, "gguf")
    got = tensors(bundle / FILE)
    assert got.keys() - {"rope_freqs.weight"} == want.keys()
    assert all(np.array_equal(got[key].reshape(values.shape), values) for key, values in want.items())
    assert artifact.about["requantized_weights"] == 0
    assert artifact.about["precision"] == "f32"


ROUND = ("llama", "llama_linear", "llama_llama3", "llama_yarn", "llama_tied_biased", "mistral", "qwen3_moe", "gemma3",
         "phi3_partial", "phi3_longrope", "granite", "smollm3", "lfm2", "lfm2_moe", "qwen3_next",
         "qwen3_5_moe")  # fmt: skip


@pytest.mark.parametrize("name", ROUND)
def test_a_file_read_again_computes_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model(name, tmp_path / "checkpoint", monkeypatch)
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    reach = export(bundle, "gguf").about["context"]
    again = convert(bundle / FILE, tmp_path / "again", "f32").path
    ids = RANDOM.integers(3, 199, min(30, reach)).tolist()
    want, got = logits(bundle, ids), logits(again, ids)
    # Frequencies come from a base and factors in f32, not from the table.
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


RECIPES = {
    "q8": ("Q8_0", 'method = "affine"\nbits = 8\ngroup_size = 64'),
    "q6": ("Q8_0", 'method = "affine"\nbits = 6\ngroup_size = 32'),
    "q5": ("Q5_0", 'method = "affine"\nbits = 5\ngroup_size = 32'),
    "q4": ("Q4_0", 'method = "affine"\nbits = 4\ngroup_size = 32'),
    "q3": ("Q4_0", 'method = "affine"\nbits = 3\ngroup_size = 128'),
    "q2": ("Q4_0", 'method = "affine"\nbits = 2\ngroup_size = 32'),
    "a5": ("Q5_1", 'method = "affine"\nbits = 5\ngroup_size = 32\nsymmetric = false'),
    "a4": ("Q4_1", 'method = "affine"\nbits = 4\ngroup_size = 64\nsymmetric = false'),
    "a2": ("Q4_1", 'method = "affine"\nbits = 2\ngroup_size = 32\nsymmetric = false'),
    "f16": ("F16", 'method = "f16"'),
    "bf16": ("BF16", 'method = "bf16"'),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_codes_that_fit_are_kept_bit_for_bit(recipe: str, tmp_path: Path) -> None:
    kind, options = RECIPES[recipe]
    (tmp_path / "recipe.toml").write_text(f'[[tensors]]\nmatch = "*"\n{options}\n')
    tiny.make("qwen3", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", str(tmp_path / "recipe.toml")).path
    export(bundle, "gguf")
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(bundle / FILE).tensors}
    values, weights = tensors(bundle / FILE), BundleWeights(bundle)
    names = {"token_embd": "embedding", "output": "head"} | {
        f"blk.0.attn_{theirs}": f"layers.0.{ours}"
        for theirs, ours in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o"))
    }
    for theirs, ours in names.items():
        assert kinds[f"{theirs}.weight"] == kind
        assert np.array_equal(values[f"{theirs}.weight"], weights.matrix(ours)[0]), theirs
    gate, up, down = weights.matrix("layers.0.ffn")
    assert np.array_equal(values["blk.0.ffn_gate.weight"], gate)
    assert np.array_equal(values["blk.0.ffn_up.weight"], up)
    if recipe.endswith("f16"):  # groups of down projections lie across
        assert np.array_equal(values["blk.0.ffn_down.weight"], down.T)
    assert {t.data_offset % 32 for t in gguf.GGUFReader(bundle / FILE).tensors} == {0}


def test_mxfp4_is_kept_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt_oss", tmp_path / "checkpoint", monkeypatch)
    kind_of = gguf_files.matrices_as(gguf.GGMLQuantizationType.MXFP4)
    source = gguf_files.write(tmp_path / "model.gguf", model, kind_of)
    bundle = convert(source, tmp_path / "bundle", "keep").path
    export(bundle, "gguf")
    want, got = tensors(source), tensors(bundle / FILE)
    for key in ("blk.0.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight", "blk.0.attn_q.weight", "token_embd.weight"):
        assert np.array_equal(got[key], want[key]), key


@pytest.mark.parametrize(("kind", "limit"), [("Q8_0", 0.006), ("Q6_K", 0.02), ("IQ4_NL", 0.08), ("F16", 0.001)])
def test_what_is_encoded_anew_is_near(kind: str, limit: float) -> None:
    values = RANDOM.standard_normal((8, 512)).astype(np.float32)
    values[1] = 0
    values[2, ::3] *= 1e-6
    blocks = encoded(values, kind)
    got = decoded(blocks, kind)
    number = next(n for n, k in KINDS.items() if k.name == kind)
    theirs = gguf.quants.dequantize(
        blocks if kind != "F16" else blocks.view(np.float16), gguf.GGMLQuantizationType(number)
    )
    assert np.array_equal(got, theirs)
    # Of normal values; the theory of uniform steps gives half of each limit, of a nonuniform table less.
    assert np.sqrt(np.square(got - values).mean() / np.square(values).mean()) <= limit
    assert not got[1].any()


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_the_loss_is_told(bits: int, tmp_path: Path) -> None:
    tiny.make("qwen3", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "palette4").path
    about = export(bundle, "gguf", Choices(bits=bits)).about
    values, weights = tensors(bundle / FILE), BundleWeights(bundle)
    before = weights.matrix("layers.0.q")[0]
    error = np.abs(values["blk.0.attn_q.weight"] - before).max()
    assert 0 < error <= (0.01 if bits == 8 else 0.2) * np.abs(before).max()
    parts = [(m["rows"] * p["cols"], p["codec"]) for m in weights.data["matrices"] for p in m["parts"]]
    total = sum(size for size, codec in parts if codec == "palette")  # the embedding keeps its 8 bits
    assert about["requantized_weights"] == total
    assert about["requantized_rms"] == pytest.approx(0.004 if bits == 8 else 0.07, rel=0.5)
    assert about["precision"] == "int8"


NAMES = [*sorted(tiny.MAKERS), "openelm"]


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_is_written_or_refused_by_name(name: str, tmp_path: Path) -> None:
    (openelm.make if name == "openelm" else lambda folder: tiny.make(name, folder))(tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    kind = families.model_type(name)
    if name in REFUSED or kind not in TARGETS:
        with pytest.raises(ConvertError, match=r"^gguf: "):
            export(bundle, "gguf")
        assert not (bundle / "artifacts" / "gguf").exists()
        return
    export(bundle, "gguf")
    arch = next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == TARGETS[kind].name)
    known = {gguf.TENSOR_NAMES[t] for t in gguf.MODEL_TENSORS[arch]} | {"rope_freqs"}
    stems = {re.sub(r"\.(weight|bias)$", "", t.name) for t in gguf.GGUFReader(bundle / FILE).tensors}
    assert {re.sub(r"^blk\.\d+", "blk.{bid}", stem) for stem in stems} <= known


# Of families that llama.cpp has, models with something that its code does not compute.
REFUSED = {
    *(
        "olmoe",
        "gemma3",
        "gpt_oss",
        "lfm2_biased",
        "lfm2_moe",
        "llama_relu2",
        "qwen2_moe",
        "qwen2_moe_windows",
        "qwen3_moe",
    ),
    *("qwen3_5", "qwen3_5_moe", "qwen3_5_tied", "qwen3_next", "qwen3_next_biased", "smollm3", "smollm3_windows"),
}


def test_the_demo_model_keeps_its_tokenizer(tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "bundle", "q8").path
    export(bundle, "gguf")
    again = convert(bundle / FILE, tmp_path / "again", "q8").path
    ours, theirs = Tokenizer(bundle / "tokenizer"), Tokenizer(again / "tokenizer")
    assert theirs.encode(TEXT) == ours.encode(TEXT)
    assert theirs.decode(ours.encode(TEXT)) == TEXT


def test_a_template_goes_along(tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "bundle", "q8").path
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (bundle / "tokenizer" / "chat_template.jinja").write_text(template)
    export(bundle, "gguf")
    found = open_checkpoint(bundle / FILE).files["tokenizer_config.json"]
    assert json.loads(found)["chat_template"] == template


def test_an_unknown_way_of_cutting_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = convert(DEMO, tmp_path / "bundle", "q8").path
    file = bundle / "tokenizer" / "tokenizer.json"
    whole = json.loads(file.read_text())
    whole["pre_tokenizer"] = {"type": "Whitespace"}
    file.write_text(json.dumps(whole))
    assert main(["export", str(bundle), "--to", "gguf"]) != 0
    assert "has no name for the way in which this tokenizer cuts text" in capsys.readouterr().err
    assert not (bundle / "artifacts" / "gguf").exists()


# llama.cpp rounds activations to 8 bits before it multiplies codes; its keys and values are f16 here.
NEAR = {"f32": 0.01, "f16": 0.02, "q8": 0.05, "q4": 0.15, "palette4": 0.15}


@pytest.mark.parametrize("recipe", NEAR)
def test_llama_cpp_writes_the_demo_models_text(recipe: str, tmp_path: Path) -> None:
    bundle = convert(DEMO, tmp_path / "bundle", recipe).path
    export(bundle, "gguf", Choices(bits=8))
    ids = Tokenizer(bundle / "tokenizer").encode(TEXT)
    assert gguf_files.llama_cpp(bundle / FILE, TEXT) == ids
    with Session(bundle, Options(cache_type="f32", activations="f32")) as session:
        text, want = greedy(session.logits, ids, 80)
    got = gguf_files.llama_cpp(bundle / FILE, text[:-1])
    assert np.abs(got - want).max() <= NEAR[recipe] * np.abs(want).max()
    assert got.argmax(axis=1)[len(ids) - 1 :].tolist() == text[len(ids) :]  # so it writes the same text


def test_check_runs_llama_cpp(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    bundle = convert(DEMO, tmp_path / "bundle", "f16").path
    export(bundle, "gguf")
    (verdict,) = check(bundle, ["gguf"])
    assert verdict.ok, verdict
    assert verdict.same_text
    assert verdict.top1 == 1


# Models in the form that llama.cpp has of them, besides those of test_gguf.py. It rounds the bounds of gpt-oss's YaRN.
MORE: dict[str, Callable[[], Any]] = {
    "qwen2_moe": lambda: tf.Qwen2MoeConfig(
        **tiny.GQA,
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=96,
    ),
    "gpt2": lambda: tf.GPT2Config(
        vocab_size=199, n_embd=64, n_layer=3, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "olmoe": lambda: tf.OlmoeConfig(**tiny.SIZES, num_experts=6, num_experts_per_tok=2),
    "gpt_oss": lambda: tf.GptOssConfig(
        **{**tiny.GQA, "num_hidden_layers": 4},
        head_dim=32,
        sliding_window=9,
        num_local_experts=4,
        num_experts_per_tok=2,
        **tiny.rope("default"),
    ),
}
OPENED = (
    *("llama", "llama_linear", "llama_llama3", "llama_yarn", "llama_tied_biased", "llama_relu", "mistral", "mixtral"),
    *(
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "gemma3",
        "phi3",
        "granite",
        "granitemoe",
        "smollm3",
    ),
    *("olmo2", "olmoe", "cohere2", "nemotron", "gpt2", "gpt_oss", "lfm2", "lfm2_moe"),
    *("qwen3_next", "qwen3_5", "qwen3_5_tied", "qwen3_5_moe"),
)


@pytest.mark.parametrize("name", OPENED)
def test_llama_cpp_computes_what_the_bundle_computes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = AS_LLAMA_CPP_HAS_IT.get(name, tiny.MAKERS[name])
    monkeypatch.setitem(tiny.MAKERS, name, MORE.get(name, maker))
    tiny.make(name, tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    reach = export(bundle, "gguf").about["context"]
    ids = RANDOM.integers(3, 199, min(24, reach)).tolist()
    want = logits(bundle, ids)
    got = gguf_files.llama_cpp(bundle / FILE, ids)
    assert np.abs(got - want).max() <= 0.005 * np.abs(want).max()  # its keys and values are f16
