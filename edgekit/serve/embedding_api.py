"""Requests for vectors and scores: /v1/embeddings as OpenAI has it, /v1/rerank as Jina and Cohere have it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.concurrency import run_in_threadpool

from edgekit.errors import ContextFullError, RuntimeFailure
from edgekit.generate.embedding import as_scores, rank, shortened
from edgekit.generate.tokenizer import Cut
from edgekit.runtime.embedding import TokenText
from edgekit.serve import fields
from edgekit.serve.bundles import Bundle
from edgekit.serve.errors import ApiError, bad
from edgekit.serve.reading import Reading
from edgekit.serve.requests import find_bundle
from edgekit.serve.scheduler import Scheduler

Body = Mapping[str, Any]
MOST_TEXTS = 2048  # in one request, as in OpenAI's API


async def embed(scheduler: Scheduler, body: Body) -> dict[str, Any]:
    """The answer to a request for vectors.

    Raises:
        ApiError: something in it is wrong.
    """
    bundle = find_bundle(scheduler.bundles.known, body, "embedding")
    if bundle.output == "score" or "pooling" not in bundle.model:
        kind = "scores documents" if bundle.output == "score" else "writes text"
        raise ApiError(
            400,
            f"the model '{bundle.id}' {kind} and was not trained to embed it; serve the bundle of an embedding model",
            "unsupported_model",
            "model",
        )
    width = int(bundle.model["hidden_size"])
    dimensions = fields.whole(body, "dimensions", width, 1, width)
    coding = fields.text(body, "encoding_format", "float")
    if coding not in ("float", "base64"):
        raise bad("'encoding_format' must be float or base64", "encoding_format")
    texts = await run_in_threadpool(_inputs, bundle, body)
    vectors, _ = await _read(scheduler, Reading(bundle.id, texts))
    vectors = shortened(vectors, dimensions, bool(bundle.model["pooling"]["normalize"]))
    data = [
        {"object": "embedding", "index": i, "embedding": _coded(v) if coding == "base64" else v.tolist()}
        for i, v in enumerate(vectors)
    ]
    tokens = sum(len(t.ids) for t in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": bundle.id, "usage": usage}


async def rerank(scheduler: Scheduler, body: Body) -> dict[str, Any]:
    """The answer to a request for documents in the order of a query.

    Raises:
        ApiError: something in it is wrong.
    """
    bundle = find_bundle(scheduler.bundles.known, body, "score")
    if bundle.output != "score":
        raise ApiError(
            400,
            f"the model '{bundle.id}' does not score documents; serve the bundle of a reranker",
            "unsupported_model",
            "model",
        )
    documents = [_document(d, i) for i, d in enumerate(_list(body.get("documents"), "documents"))]
    top = fields.whole(body, "top_n", len(documents), 1, MOST_TEXTS)
    raw, shows = fields.flag(body, "raw_scores"), body.get("return_documents") is not False
    texts = await run_in_threadpool(_pairs, bundle, body, documents)
    _, scores = await _read(scheduler, Reading(bundle.id, texts))
    made = scores.tolist() if raw else as_scores(scores.tolist(), bundle.model["pooling"])
    results = []
    for found in rank(made, top):
        shown = {"document": {"text": documents[found.index]}} if shows else {}
        results.append({"index": found.index, "relevance_score": found.score, **shown})
    tokens = sum(len(t.ids) for t in texts)
    return {"model": bundle.id, "results": results, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


async def _read(scheduler: Scheduler, reading: Reading) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    scheduler.read(reading)
    found = await asyncio.wrap_future(reading.done)
    scheduler.counters.prompt_tokens += sum(len(t.ids) for t in reading.texts)
    return found


def _coded(vector: npt.NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_TEXTS:
        raise bad(f"'{name}' must be a list of 1 to {MOST_TEXTS} texts", name)
    return value


def _document(value: object, index: int) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    return fields.checked_text(text, f"documents[{index}]")


def _inputs(bundle: Bundle, body: Body) -> list[TokenText]:
    """The member "input": a text, texts, token ids or lists of them."""
    given = body.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and not isinstance(given[0], str | list)):
        given = [given]
    values = _list(given, "input")
    reader, made = bundle.embedder, []
    try:
        prompt = reader.prompt(fields.text(body, "prompt_name") or None)
    except RuntimeFailure as error:
        raise bad(str(error), "prompt_name") from error
    for i, value in enumerate(values):
        if isinstance(value, list):
            made.append(_ids(bundle, value, "input" if len(values) == 1 else f"input[{i}]"))
        else:
            cut = _made(lambda text: reader.text(text, prompt), fields.checked_text(value, "input"), "input")
            made.append(_whole(bundle, body, cut))
    return made


def _made(make: Any, text: str, name: str) -> Cut:
    try:
        found: Cut = make(text)
    except RuntimeFailure as error:
        raise bad(str(error), name) from error
    return found


def _pairs(bundle: Bundle, body: Body, documents: list[str]) -> list[TokenText]:
    query = fields.checked_text(body.get("query"), "query")
    reader = bundle.embedder
    return [_whole(bundle, body, _made(lambda d: reader.pair(query, d), d, "documents")) for d in documents]


def _whole(bundle: Bundle, body: Body, cut: Cut) -> TokenText:
    """A text that nothing was cut from, unless the request allows that."""
    if cut.cut and not fields.flag(body, "truncate"):
        raise ContextFullError(
            f"a text has {cut.length} tokens, and the model reads {bundle.embedder.length}; split it, or allow to cut "
            "it with 'truncate': true"
        )
    return bundle.embedder.tokens(cut)


def _ids(bundle: Bundle, value: list[Any], name: str) -> TokenText:
    """Token ids that are taken as they are."""
    vocabulary = bundle.vocab_size
    if not value or not all(isinstance(t, int) and not isinstance(t, bool) and 0 <= t < vocabulary for t in value):
        raise bad(f"'{name}' must hold token ids below {vocabulary}", name)
    if len(value) > bundle.context:
        raise ContextFullError(f"'{name}' has {len(value)} tokens, and the model reads {bundle.context}")
    return TokenText(tuple(value))
