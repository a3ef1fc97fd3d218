"""GGUF files: every kind of block as gguf's own code reads it, and every architecture as transformers computes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import transformers as tf
from tokenizers import ByteLevelBPETokenizer

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.weights import BundleWeights
from edgekit.checkpoint import open_checkpoint
from edgekit.checkpoint.gguf_types import KINDS
from edgekit.conversion import convert
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import gguf_files, tiny

TEXT = "The quick brown fox doesn't jump over 1234 lazy dogs.  Nor does it swim,\n\nthough it'd like to: naïve café."
RANDOM = np.random.default_rng(7)
FAMILIES = (
    *("llama", "llama_mha", "llama_linear", "mistral", "qwen2", "qwen3", "qwen3_moe", "gemma3", "phi3"),
    *("granite", "smollm3", "lfm2", "gpt_oss", "lfm2_moe", "qwen3_next", "qwen3_5", "qwen3_5_tied", "qwen3_5_moe"),
)


@pytest.mark.parametrize("number", KINDS)
def test_blocks_decode_bit_for_bit(number: int) -> None:
    kind, theirs = KINDS[number], gguf.GGMLQuantizationType(number)
    assert (kind.name, gguf.GGML_QUANT_SIZES[theirs]) == (theirs.name, (kind.values, kind.bytes))
    raw = RANDOM.integers(0, 256, (9, 3 * kind.bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        want, got = gguf.quants.dequantize(raw, theirs), kind.rows(raw)
    assert np.array_equal(np.ascontiguousarray(want, np.float32).view(np.uint32), got.view(np.uint32))


# Of these a file does not tell everything: its architecture always has the same.
FOUR: dict[str, Any] = {**tiny.GQA, "num_hidden_layers": 4}
DELTA = {**tiny.DELTA, "linear_key_head_dim": 32, "linear_value_head_dim": 32}
AS_LLAMA_CPP_HAS_IT: dict[str, Callable[[], Any]] = {
    "mistral": lambda: tf.MistralConfig(**tiny.GQA, sliding_window=None),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(
        **tiny.GQA, head_dim=32, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True
    ),
    "gemma3": lambda: tf.Gemma3TextConfig(
        **{**tiny.GQA, "num_hidden_layers": 7},
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=9,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    ),
    "smollm3": lambda: tf.SmolLM3Config(**FOUR, no_rope_layer_interval=4),
    "lfm2_moe": lambda: tf.Lfm2MoeConfig(
        **{**tiny.LFM2, "num_hidden_layers": 4},
        layer_types=["conv", "full_attention", "conv", "conv"],
        moe_intermediate_size=64,
        num_experts=6,
        num_experts_per_tok=2,
        num_dense_layers=1,
        norm_topk_prob=True,
        routed_scaling_factor=1.0,
    ),
    "qwen3_next": lambda: tf.Qwen3NextConfig(**DELTA, **tiny.DELTA_MOE),
    "qwen3_5": lambda: tf.Qwen3_5TextConfig(**DELTA),
    "qwen3_5_tied": lambda: tf.Qwen3_5TextConfig(
        **{**DELTA, "linear_num_value_heads": 6},
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
    ),
    "qwen3_5_moe": lambda: tf.Qwen3_5MoeTextConfig(
        **{k: v for k, v in DELTA.items() if k != "intermediate_size"}, **tiny.DELTA_MOE
    ),
    "gpt_oss": lambda: tf.GptOssConfig(
        **FOUR,
        head_dim=32,
        sliding_window=9,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 32,
        },
    ),
}


def tiny_model(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny model of a family, in the form that llama.cpp has of it."""
    monkeypatch.setitem(tiny.MAKERS, name, AS_LLAMA_CPP_HAS_IT.get(name, tiny.MAKERS[name]))
    return tiny.make(name, folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_computes_what_transformers_computes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(name, tmp_path / "checkpoint", monkeypatch)
    file = gguf_files.write(tmp_path / "model.gguf", model)
    assert describe_checkpoint(open_checkpoint(file))[1] == ()
    bundle = convert(file, tmp_path / "bundle", "f32").path
    ids = RANDOM.integers(3, 199, 30).tolist()
    want = gguf_files.logits_of(model, ids)
    with Session(bundle, Options(cache_type="f32")) as session:
        got = np.concatenate([session.logits(ids[:20]), *(session.logits([i]) for i in ids[20:])])
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", ["qwen3_next", "qwen3_5"])
def test_blocks_of_hybrids_are_kept_in_their_new_places(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(name, tmp_path / "checkpoint", monkeypatch)
    kind_of = gguf_files.matrices_as(gguf.GGMLQuantizationType.Q8_0)
    file = gguf_files.write(tmp_path / "model.gguf", model, kind_of)
    plain = BundleWeights(convert(file, tmp_path / "plain", "f32").path)
    kept = BundleWeights(convert(file, tmp_path / "kept", "keep").path)
    for matrix in ("q", "k", "v", "gate", "beta", "decay", "o"):  # rows, and of the last columns, come from elsewhere
        part = kept.matrix_entry(f"layers.0.{matrix}")["parts"][0]
        assert (part["codec"], part["bits"]) == ("affine", 8), matrix
        assert np.array_equal(kept.matrix(f"layers.0.{matrix}")[0], plain.matrix(f"layers.0.{matrix}")[0]), matrix


def test_experts_with_gate_and_up_in_one_tensor_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("qwen3_next", tmp_path / "checkpoint", monkeypatch)
    whole = open_checkpoint(gguf_files.write(tmp_path / "whole.gguf", model)).tensors
    joined = open_checkpoint(gguf_files.write(tmp_path / "joined.gguf", model, joined=True)).tensors
    assert joined.keys() == whole.keys()
    assert all(np.array_equal(joined[name].read(), tensor.read()) for name, tensor in whole.items())


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma3", "granite", "smollm3", "phi3"])
@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_0"])
def test_a_file_computes_what_llama_cpp_computes(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(name, tmp_path / "checkpoint", monkeypatch)
    kind_of = gguf_files.matrices_as(gguf.GGMLQuantizationType[kind])
    file = gguf_files.write(tmp_path / "model.gguf", model, kind_of, gguf_files.vocabulary(199))
    ids = RANDOM.integers(3, 199, 24).tolist()
    want = gguf_files.llama_cpp(file, ids)
    with Session(convert(file, tmp_path / "bundle", "f32").path, Options(cache_type="f32")) as session:
        got = session.logits(ids)
    # llama.cpp keeps keys and values in f16, and rounds activations to 8 bits before it multiplies codes.
    assert np.abs(got - want).max() <= (0.005 if kind == "F32" else 0.1) * np.abs(want).max()


def test_byte_level_tokenizers_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([TEXT] * 3, vocab_size=350, special_tokens=["<|begin|>", "<|end|>"])
    saved = json.loads(trained.to_str())["model"]
    vocabulary = sorted(saved["vocab"], key=saved["vocab"].get)

    def add(w: Any) -> None:
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("llama-bpe")
        w.add_token_list(vocabulary)
        w.add_token_types([3, 3] + [1] * (len(vocabulary) - 2))
        w.add_token_merges([" ".join(merge) for merge in saved["merges"]])
        w.add_bos_token_id(0)
        w.add_eos_token_id(1)
        w.add_chat_template("{{ bos_token }}{{ messages[0].content }}")

    size = {"vocab_size": len(vocabulary)}
    monkeypatch.setitem(tiny.MAKERS, "llama", lambda: tf.LlamaConfig(**{**tiny.GQA, **size}))
    file = gguf_files.write(tmp_path / "model.gguf", tiny.make("llama", tmp_path / "checkpoint"), extra=add)
    tokenizer = Tokenizer(convert(file, tmp_path / "bundle", "f32").path / "tokenizer")
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert ids[0] == 0
    assert tokenizer.encode("<|end|>", special=False) == [1]
    assert tokenizer.chat([{"role": "user", "content": "Hi"}]) == "<|begin|>Hi"
    assert ids == gguf_files.llama_cpp(file, TEXT)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_tokenizers_are_built(prefix: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix_file = tmp_path / "pieces"
    (tmp_path / "text.txt").write_text(TEXT * 3)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(prefix_file),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{prefix_file}.model")
    size = pieces.vocab_size()

    def kind(i: int) -> int:
        return 2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1

    def add(w: Any) -> None:
        w.add_tokenizer_model("llama")
        w.add_token_list([pieces.id_to_piece(i) for i in range(size)])
        w.add_token_scores([pieces.get_score(i) for i in range(size)])
        w.add_token_types([kind(i) for i in range(size)])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_unk_token_id(0)
        w.add_add_space_prefix(prefix)

    monkeypatch.setitem(tiny.MAKERS, "llama", lambda: tf.LlamaConfig(**{**tiny.GQA, "vocab_size": size}))
    file = gguf_files.write(tmp_path / "model.gguf", tiny.make("llama", tmp_path / "checkpoint"), extra=add)
    tokenizer = Tokenizer(convert(file, tmp_path / "bundle", "f32").path / "tokenizer")
    for text in (TEXT, "unseen: Ωß 你好"):
        assert tokenizer.encode(text) == [1, *pieces.encode(text)]
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(TEXT) == gguf_files.llama_cpp(file, TEXT)
