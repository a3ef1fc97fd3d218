"""Bundles of a tiny embedder and a tiny reranker, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.conversion import convert
from tests import encoders

PROMPTS = {"query": "the cat: ", "ü 1": '\n "mat" '}


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT in a folder of sentence-transformers: mean, normalized, texts of 16 tokens, two prompts."""
    folder = tmp_path_factory.mktemp("embedder")
    encoders.make("bert", folder / "checkpoint")
    encoders.add_tokenizer(folder / "checkpoint")
    encoders.add_modules(folder / "checkpoint", length=16, prompts=PROMPTS)
    return convert(folder / "checkpoint", folder / "minilm", "f32").path


@pytest.fixture(scope="session")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with a head of one label."""
    folder = tmp_path_factory.mktemp("reranker")
    encoders.make("bert", folder / "checkpoint", scores=True)
    encoders.add_tokenizer(folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "reranker", "f32").path
