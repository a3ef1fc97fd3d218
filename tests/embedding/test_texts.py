"""From texts to vectors and scores, beside what transformers and sentence-transformers do with them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers as tf

import edgekit
from edgekit.errors import RuntimeFailure
from edgekit.generate.embedding import Embedder
from edgekit.generate.tokenizer import Tokenizer
from tests import encoders
from tests.embedding.conftest import PROMPTS

TEXTS = ["a cat", "the dog sat on the mat", "The  CAT ran fast and slow \n", "w3"]
LONG = "the dog sat on the mat and " * 9


def sentence_vectors(checkpoint: Path, texts: list[str], length: int = 16) -> np.ndarray:
    """What sentence-transformers computes: its documented modules, in torch."""
    model = tf.AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    native = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    native.enable_truncation(length)
    out = []
    for text in texts:
        ids = native.encode(text.strip()).ids
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        out.append(torch.nn.functional.normalize(states.mean(0), dim=0).numpy())
    return np.stack(out)


def test_vectors_are_those_of_sentence_transformers(embedder: Path) -> None:
    want = sentence_vectors(embedder.parent / "checkpoint", [*TEXTS, LONG])
    with edgekit.load(embedder) as model:
        got = model.embed([*TEXTS, LONG])
    assert got.dtype == np.float32
    assert got.shape == want.shape
    assert (got * want).sum(axis=1).min() >= 0.9999
    assert np.abs(got - want).max() <= 1e-4


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_is_put_before_each_text(name: str, embedder: Path) -> None:
    want = sentence_vectors(embedder.parent / "checkpoint", [PROMPTS[name] + t for t in TEXTS])
    with edgekit.load(embedder) as model:
        assert np.abs(model.embed(TEXTS, prompt_name=name) - want).max() <= 1e-4
        with pytest.raises(RuntimeFailure, match="no prompt 'passage'; its prompts: query, ü 1"):
            model.embed(TEXTS, prompt_name="passage")


def test_long_texts_are_cut_with_a_word(embedder: Path) -> None:
    lines: list[str] = []
    with edgekit.load(embedder) as model:
        model.embed(TEXTS, warn=lines.append)
        assert lines == []
        model.embed([LONG, TEXTS[0]], warn=lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("1 text was cut to 16 tokens")


def test_an_empty_text_is_what_the_tokenizer_makes_of_it(embedder: Path) -> None:
    with edgekit.load(embedder) as model:
        got = model.embed(["", "  \n"])
    assert np.array_equal(got[0], got[1])
    assert np.abs(got[0] - sentence_vectors(embedder.parent / "checkpoint", [""])[0]).max() <= 1e-4


def test_fewer_dimensions_are_the_first_of_them(embedder: Path) -> None:
    with edgekit.load(embedder) as model:
        whole, plain = model.embed(TEXTS), model.embed(TEXTS, normalize=False)
        part = model.embed(TEXTS, dimensions=8)
        assert np.allclose(part, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
        assert np.array_equal(model.embed(TEXTS, normalize=False, dimensions=8), plain[:, :8])
        with pytest.raises(RuntimeFailure, match="64 dimensions"):
            model.embed(TEXTS, dimensions=65)
    assert np.abs(np.linalg.norm(plain, axis=1) - 1).min() > 0.1


def test_pairs_are_cut_as_transformers_cuts_them(embedder: Path) -> None:
    folder = embedder.parent / "checkpoint"
    native = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = Tokenizer(folder)
    words = [*encoders.WORDS[5:], *(f"w{i}" for i in range(1, 8))]
    for first, second, length in itertools.product(range(0, 18, 3), range(0, 18, 2), (5, 6, 9, 16)):
        native.enable_truncation(length)
        pair = " ".join(words[:first]), " ".join(reversed(words[:second]))
        want, got = native.encode(*pair), ours.cut(*pair, length)
        assert (list(got.ids), list(got.types)) == (want.ids, want.type_ids), (first, second, length)
        assert got.cut == (first + second + 3 > length)


def test_scores_are_those_of_transformers_in_the_order_of_documents(reranker: Path) -> None:
    checkpoint = reranker.parent / "checkpoint"
    model = tf.AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager").eval()
    native = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    native.enable_truncation(64)
    documents = [*TEXTS, LONG * 3]
    want = []
    for document in documents:
        pair = native.encode("Where sat the cat", document.strip())
        with torch.no_grad():
            logits = model(torch.tensor([pair.ids]), token_type_ids=torch.tensor([pair.type_ids])).logits
        want.append(float(logits[0, 0]))
    with edgekit.load(reranker) as opened:
        raw = opened.rerank("Where sat the cat", documents, raw=True)
        found = opened.rerank("Where sat the cat", documents, top=2)
    assert [r.index for r in raw] == sorted(range(len(want)), key=lambda i: -want[i])
    assert max(abs(r.score - want[r.index]) for r in raw) <= 1e-4
    assert [r.index for r in found] == [r.index for r in raw[:2]]
    assert all(abs(f.score - 1 / (1 + np.exp(-r.score))) < 1e-6 for f, r in zip(found, raw, strict=False))


def test_each_kind_of_model_says_what_the_other_is_for(embedder: Path, reranker: Path) -> None:
    with edgekit.load(embedder) as model:
        with pytest.raises(RuntimeFailure, match="use 'edgekit embed'"):
            model.generate("a cat")
        with pytest.raises(RuntimeFailure, match="use 'edgekit embed'"):
            model.logits([2, 5, 3])
        with pytest.raises(RuntimeFailure, match="bundle of a reranker"):
            model.rerank("a", ["b"])
        with pytest.raises(RuntimeFailure, match="edgekit_session_embed"):
            model.session.eval([2, 5, 3])
    with edgekit.load(reranker) as model:
        with pytest.raises(RuntimeFailure, match="use 'edgekit rerank'"):
            model.generate("a cat")
        with pytest.raises(RuntimeFailure, match="use 'edgekit rerank'"):
            model.embed("a cat")


def test_a_reader_knows_no_more_tokens_than_the_context(embedder: Path) -> None:
    with edgekit.load(embedder, context=5) as model:
        reader = Embedder(model.manifest, model.tokenizer, model.plan.context)
        assert len(reader.text(LONG).ids) == 5
        assert np.isfinite(model.embed(LONG)).all()
