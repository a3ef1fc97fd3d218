"""Answers of /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from edgekit.errors import EdgekitError
from edgekit.generate.answer import Answer, Delta
from edgekit.generate.tool_calls import ToolCall, new_id
from edgekit.serve.calls import Calls
from edgekit.serve.job import Failed, Finished, Started, Token, TokenLogprobs
from edgekit.serve.requests import TextRequest
from edgekit.serve.token_text import token_entry


@dataclass
class Choice:
    """One answer of a request, as far as it is known.

    Attributes:
        answer: its parts.
        tokens: that were generated.
        cached: tokens of the prompt that were there already.
        reason: why it ended, in OpenAI's words; "" before.
        calls: of tools.
        logprobs: of its tokens.
    """

    answer: Answer
    tokens: int = 0
    cached: int = 0
    reason: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)


def begin_choices(request: TextRequest) -> list[Choice]:
    """As many as the request asks for."""
    tools = request.tools
    return [Choice(Answer(tools.names, request.thinking, bool(tools.required))) for _ in request.jobs]


def take_token(request: TextRequest, choice: Choice, event: Token) -> tuple[Delta, list[dict[str, Any]]]:
    """Adds a token; what it shows, and the entries of its logarithms of probabilities."""
    choice.tokens += event.token >= 0
    entries = [] if event.logprobs is None else [_entry(request, event.logprobs)]
    choice.logprobs += entries
    return choice.answer.push(event.text), entries


def take_end(choice: Choice, event: Finished) -> Delta:
    """Ends a choice; what was held back."""
    delta, choice.calls = choice.answer.end()
    choice.reason = "tool_calls" if choice.calls else event.reason
    return delta


def _entry(request: TextRequest, found: TokenLogprobs) -> dict[str, Any]:
    tokenizer = request.bundle.tokenizer
    top = [token_entry(tokenizer, t, p) for t, p in found.top]
    return {**token_entry(tokenizer, found.token, found.logprob), "top_logprobs": top}


def usage(request: TextRequest, choices: list[Choice]) -> dict[str, Any]:
    """Numbers of tokens."""
    prompt, written = len(request.jobs[0].ids), sum(c.tokens for c in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": min((c.cached for c in choices), default=0)},
    }


async def collect(request: TextRequest, calls: Calls) -> list[Choice]:
    """Waits for all choices.

    Raises:
        EdgekitError: one failed.
    """
    choices = begin_choices(request)
    async for index, event in calls:
        take(request, choices[index], event)
    return choices


def take(request: TextRequest, choice: Choice, event: object) -> tuple[Delta, list[dict[str, Any]]]:
    """What an event shows of a choice.

    Raises:
        EdgekitError: the job failed.
    """
    if isinstance(event, Started):
        choice.cached = event.cached_tokens
    elif isinstance(event, Token):
        return take_token(request, choice, event)
    elif isinstance(event, Finished):
        return take_end(choice, event), []
    elif isinstance(event, Failed):
        raise event.error
    return Delta(), []


def chat_body(request: TextRequest, choices: list[Choice]) -> dict[str, Any]:
    """The whole answer."""
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.bundle.id,
        "choices": [
            {
                "index": i,
                "message": {**c.answer.message(c.calls), "refusal": None},
                "logprobs": {"content": c.logprobs, "refusal": None} if _with_logprobs(request) else None,
                "finish_reason": c.reason,
            }
            for i, c in enumerate(choices)
        ],
        "usage": usage(request, choices),
    }


def _with_logprobs(request: TextRequest) -> bool:
    return request.jobs[0].top_logprobs is not None


async def chat_chunks(request: TextRequest, calls: Calls) -> AsyncIterator[dict[str, Any]]:
    """The answer in pieces; the last one has the usage where that is asked for.

    Raises:
        EdgekitError: a job failed.
    """
    choices, name, created = begin_choices(request), new_id("chatcmpl"), int(time.time())

    def chunk(found: list[dict[str, Any]]) -> dict[str, Any]:
        body = {"id": name, "object": "chat.completion.chunk", "created": created, "model": request.bundle.id}
        return {**body, "choices": found, **({"usage": None} if request.usage else {})}

    def step(index: int, delta: dict[str, Any], entries: list[dict[str, Any]], reason: str | None) -> dict[str, Any]:
        logprobs = {"content": entries, "refusal": None} if entries else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    for i in range(len(choices)):
        yield chunk([step(i, {"role": "assistant", "content": ""}, [], None)])
    held: list[list[dict[str, Any]]] = [[] for _ in choices]  # entries of tokens that have shown nothing yet
    async for index, event in calls:
        choice = choices[index]
        shown, entries = take(request, choice, event)
        held[index] += entries
        delta: dict[str, Any] = {
            **({"reasoning_content": shown.reasoning} if shown.reasoning else {}),
            **({"content": shown.content} if shown.content else {}),
        }
        if choice.calls:
            delta["tool_calls"] = [{"index": i, **c.entry()} for i, c in enumerate(choice.calls)]
        if delta or held[index]:
            yield chunk([step(index, delta, held[index], None)])
            held[index] = []
        if choice.reason:
            yield chunk([step(index, {}, [], choice.reason)])
    if request.usage:
        yield {**chunk([]), "usage": usage(request, choices)}


def error_body(error: EdgekitError) -> dict[str, Any]:
    """An error within a stream, whose status was sent already."""
    from edgekit.serve.errors import api_error

    return api_error(error).body()
