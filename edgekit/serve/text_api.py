"""Answers of /v1/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from edgekit.generate.tool_calls import new_id
from edgekit.serve.calls import Calls
from edgekit.serve.job import Event, Failed, Finished, Started, Token
from edgekit.serve.requests import TextRequest
from edgekit.serve.token_text import token_text

Logprobs = dict[str, list[Any]]


def _no_logprobs() -> Logprobs:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


@dataclass
class _Text:
    """A text as far as it is known."""

    parts: list[str] = field(default_factory=list)
    length: int = 0
    tokens: int = 0
    cached: int = 0
    reason: str = ""
    logprobs: Logprobs = field(default_factory=_no_logprobs)

    def take(self, request: TextRequest, event: Event) -> tuple[str, Logprobs | None]:
        """What an event adds: text, and logarithms of probabilities."""
        if isinstance(event, Started):
            self.cached = event.cached_tokens
        elif isinstance(event, Finished):
            self.reason = event.reason
        elif isinstance(event, Failed):
            raise event.error
        else:
            return event.text, self._take_token(request, event)
        return "", None

    def _take_token(self, request: TextRequest, event: Token) -> Logprobs | None:
        self.tokens += event.token >= 0
        self.parts.append(event.text)
        found, tokenizer = event.logprobs, request.bundle.tokenizer
        added = None
        if found is not None:
            added = _no_logprobs()
            added["tokens"].append(token_text(tokenizer, found.token))
            added["token_logprobs"].append(found.logprob)
            added["top_logprobs"].append({token_text(tokenizer, t): p for t, p in found.top})
            added["text_offset"].append(len(request.echo) + self.length)
            for name, values in added.items():
                self.logprobs[name] += values
        self.length += len(event.text)
        return added


def _usage(request: TextRequest, texts: list[_Text]) -> dict[str, Any]:
    prompt, written = len(request.jobs[0].ids), sum(t.tokens for t in texts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": min((t.cached for t in texts), default=0)},
    }


def _body(request: TextRequest, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.bundle.id,
        "choices": choices,
    }


async def text_body(request: TextRequest, calls: Calls) -> dict[str, Any]:
    """The whole answer.

    Raises:
        EdgekitError: a job failed.
    """
    texts = [_Text() for _ in request.jobs]
    async for index, event in calls:
        texts[index].take(request, event)
    with_logprobs = request.jobs[0].top_logprobs is not None
    choices = [
        {
            "index": i,
            "text": request.echo + "".join(t.parts),
            "logprobs": t.logprobs if with_logprobs else None,
            "finish_reason": t.reason,
        }
        for i, t in enumerate(texts)
    ]
    return {**_body(request, new_id("cmpl"), choices), "usage": _usage(request, texts)}


async def text_chunks(request: TextRequest, calls: Calls) -> AsyncIterator[dict[str, Any]]:
    """The answer in pieces.

    Raises:
        EdgekitError: a job failed.
    """
    texts, name = [_Text() for _ in request.jobs], new_id("cmpl")
    for i in range(len(texts) if request.echo else 0):
        yield _body(request, name, [{"index": i, "text": request.echo, "logprobs": None, "finish_reason": None}])
    async for index, event in calls:
        text, logprobs = texts[index].take(request, event)
        reason = texts[index].reason or None
        if text or logprobs or reason:
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
            yield _body(request, name, [choice])
    if request.usage:
        yield {**_body(request, name, []), "usage": _usage(request, texts)}
