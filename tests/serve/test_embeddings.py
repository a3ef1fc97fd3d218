"""/v1/embeddings and /v1/rerank of a real server, asked by the openai client, beside a model that writes."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

import edgekit
from edgekit.conversion import convert
from tests import encoders
from tests.serve.conftest import Running

TEXTS = ["a cat", "the dog sat on the mat", "the dog sat on the mat and ran fast", ""]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vectors")
    encoders.make("bert", folder / "e")
    encoders.add_modules(folder / "e", length=16, prompts={"query": "the cat: "})
    encoders.make("modernbert", folder / "r", scores=True)
    for name in "er":
        encoders.add_tokenizer(folder / name)
    return {
        "embedder": convert(folder / "e", folder / "embedder", "q8").path,
        "reranker": convert(folder / "r", folder / "reranker", "q8").path,
    }


@pytest.fixture(scope="module")
def vectors(bundles: dict[str, Path], demo: Path) -> Iterator[Running]:
    running = Running(bundles["embedder"], bundles["reranker"], demo, "--ram", 16 << 20, "--parallel", 2)
    yield running
    assert running.process.poll() is None, "the server has ended"
    running.stop()


@pytest.fixture(scope="module")
def want(bundles: dict[str, Path]) -> np.ndarray:
    with edgekit.load(bundles["embedder"]) as model:
        return model.embed(TEXTS)


@pytest.mark.parametrize("more", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_vectors_are_those_of_python(more: dict[str, Any], vectors: Running, want: np.ndarray) -> None:
    found = vectors.client().embeddings.create(model="embedder", input=TEXTS, **more)
    rows = [d.embedding for d in found.data]
    if more.get("encoding_format") == "base64":
        rows = [np.frombuffer(base64.b64decode(str(r)), "<f4").tolist() for r in rows]
    assert np.abs(np.array(rows) - want).max() < 1e-5
    assert [d.index for d in found.data] == [0, 1, 2, 3]
    assert found.usage.prompt_tokens == found.usage.total_tokens == 4 + 8 + 11 + 2
    assert found.model == "embedder"


def test_input_is_a_text_or_tokens(vectors: Running, want: np.ndarray) -> None:
    client = vectors.client()
    one = client.embeddings.create(model="embedder", input=TEXTS[0]).data[0].embedding
    ids = vectors.post("/tokenize", {"model": "embedder", "content": TEXTS[0], "add_special": True})[1]["tokens"]
    as_ids = client.embeddings.create(model="embedder", input=ids).data[0].embedding
    lists = client.embeddings.create(model="embedder", input=[ids, ids]).data
    for row in (one, as_ids, lists[0].embedding, lists[1].embedding):
        assert np.abs(np.array(row) - want[0]).max() < 1e-5


def test_prompts_and_fewer_dimensions(vectors: Running, bundles: dict[str, Path]) -> None:
    with edgekit.load(bundles["embedder"]) as model:
        expected = model.embed(TEXTS[:2], prompt_name="query", dimensions=8)
    found = vectors.client().embeddings.create(
        model="embedder", input=TEXTS[:2], dimensions=8, extra_body={"prompt_name": "query"}
    )
    assert np.abs(np.array([d.embedding for d in found.data]) - expected).max() < 1e-5


def test_the_first_model_that_fits_is_taken_where_none_is_named(vectors: Running) -> None:
    status, found = vectors.post("/v1/completions", {"prompt": "Once upon", "max_tokens": 2})
    assert (status, found["model"]) == (200, "demo")
    assert vectors.post("/v1/embeddings", {"input": "a cat"})[1]["model"] == "embedder"
    assert vectors.post("/v1/rerank", {"query": "a", "documents": ["b"]})[1]["model"] == "reranker"


def test_documents_come_in_the_order_of_their_scores(vectors: Running, bundles: dict[str, Path]) -> None:
    with edgekit.load(bundles["reranker"]) as model:
        expected, raw = model.rerank("a cat", TEXTS), model.rerank("a cat", TEXTS, raw=True)
    body = {"model": "reranker", "query": "a cat", "documents": [TEXTS[0], {"text": TEXTS[1]}, *TEXTS[2:]]}
    status, found = vectors.post("/v1/rerank", body)
    assert status == 200
    assert [r["index"] for r in found["results"]] == [r.index for r in expected]
    assert [r["document"]["text"] for r in found["results"]] == [TEXTS[r.index] for r in expected]
    scores = [r["relevance_score"] for r in found["results"]]
    assert max(abs(s - r.score) for s, r in zip(scores, expected, strict=True)) < 1e-5
    best = vectors.post("/v1/rerank", body | {"top_n": 1, "raw_scores": True, "return_documents": False})[1]["results"]
    assert len(best) == 1
    assert best[0].keys() == {"index", "relevance_score"}
    assert abs(best[0]["relevance_score"] - raw[0].score) < 1e-5


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("embeddings", {"input": []}, "input"),
    ("embeddings", {"input": 5}, "input"),
    ("embeddings", {"input": [True]}, "input"),
    ("embeddings", {"input": [[5, 99]]}, "input"),
    ("embeddings", {"input": [[5], "a", []]}, "input[2]"),
    ("embeddings", {"input": ["a", 5]}, "input"),
    ("embeddings", {"input": "\ud800"}, "input"),
    ("embeddings", {"input": "a", "dimensions": 65}, "dimensions"),
    ("embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ("embeddings", {"input": "a", "prompt_name": "x"}, "prompt_name"),
    ("embeddings", {"input": "a", "model": "demo"}, "model"),
    ("embeddings", {"input": "a", "model": "reranker"}, "model"),
    ("rerank", {"query": "a"}, "documents"),
    ("rerank", {"query": 5, "documents": ["a"]}, "query"),
    ("rerank", {"query": "a", "documents": ["a", 5]}, "documents[1]"),
    ("rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
    ("rerank", {"query": "a", "documents": ["a"], "model": "embedder"}, "model"),
    ("completions", {"prompt": "a", "model": "embedder"}, "model"),
    ("chat/completions", {"messages": [{"role": "user", "content": "a"}], "model": "reranker"}, "model"),
]


@pytest.mark.parametrize(("address", "body", "param"), WRONG)
def test_wrong_requests_are_named(vectors: Running, address: str, body: dict[str, Any], param: str) -> None:
    status, found = vectors.post(f"/v1/{address}", body)
    assert status == 400
    assert found["error"]["param"] == param
    assert "\n" not in found["error"]["message"]


def test_long_texts_are_refused_unless_they_may_be_cut(vectors: Running) -> None:
    client, text = vectors.client(), "the dog sat on the mat " * 5
    for value in (text, [5] * 17):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="embedder", input=value)
        assert caught.value.code == "context_length_exceeded"
    found = client.embeddings.create(model="embedder", input=text, extra_body={"truncate": True})
    assert found.usage.prompt_tokens == 16


def test_many_clients_at_once_get_their_own(vectors: Running, want: np.ndarray) -> None:
    failures: list[str] = []

    def ask(i: int) -> None:
        client = vectors.client()
        for round_ in range(4):
            at = (i + round_) % 3
            rows = client.embeddings.create(model="embedder", input=[TEXTS[at]] * 3).data
            if np.abs(np.array([r.embedding for r in rows]) - want[at]).max() > 1e-5:
                failures.append(f"{i} {at}")
            client.completions.create(model="demo", prompt="Once upon a time", max_tokens=3)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_models_say_what_they_give(vectors: Running) -> None:
    found = {m.id: m.model_dump()["output"] for m in vectors.client().models.list()}
    assert found == {"embedder": "embedding", "reranker": "score", "demo": "logits"}
