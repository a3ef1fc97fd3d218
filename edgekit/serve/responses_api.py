"""Answers of /v1/responses: text, calls of functions, streams. Nothing is stored."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from edgekit.generate.tool_calls import new_id
from edgekit.serve import fields
from edgekit.serve.bundles import Bundle
from edgekit.serve.calls import Calls
from edgekit.serve.chat_api import Choice, begin_choices, take, usage
from edgekit.serve.errors import bad
from edgekit.serve.fields import Body
from edgekit.serve.requests import TextRequest, read_chat


def read_response(bundle: Bundle, body: Body) -> TextRequest:
    """A request to /v1/responses, as one to /v1/chat/completions.

    Raises:
        ApiError: something in it is wrong, or asks for what is not kept.
    """
    if body.get("previous_response_id") is not None or fields.flag(body, "background"):
        raise bad("responses are not stored; send the whole conversation as 'input'", "previous_response_id")
    instructions = fields.text(body, "instructions")
    messages = [{"role": "system", "content": instructions}] if instructions else []
    chat: dict[str, Any] = {
        name: body[name]
        for name in ("tools", "tool_choice", "temperature", "top_p", "stream", "seed", "stop")
        if body.get(name) is not None
    }
    wanted = fields.table(fields.table(body, "text"), "format")
    if wanted:
        chat["response_format"] = wanted
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    return read_chat(bundle, {**chat, "messages": [*messages, *_input(body.get("input"))]})


def _input(value: object) -> list[dict[str, Any]]:
    """The member "input": a text, or messages, calls and what they gave."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise bad("'input' must be a text, or a list of messages", "input")
    return [_item(item, f"input[{i}]") for i, item in enumerate(value)]


def _item(item: object, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise bad(f"'{where}' must be an object", where)
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item.get("role"), "content": item.get("content")}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    raise bad(f"'{where}' is of type {kind!r:.40}; messages, calls and their outputs are read", where)


def response_body(request: TextRequest, choice: Choice, name: str, status: str) -> dict[str, Any]:
    """The response as it is now; `status`: "in_progress", "completed" or "incomplete"."""
    full = usage(request, [choice])
    job = request.jobs[0]
    return {
        "id": name,
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": request.bundle.id,
        "output": [] if status == "in_progress" else _output(choice, name),
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": job.sampling.temperature,
        "top_p": job.sampling.top_p,
        "tool_choice": "auto",
        "tools": [{"type": "function", "strict": False, **t["function"]} for t in request.tools.schemas],
        "usage": None
        if status == "in_progress"
        else {
            "input_tokens": full["prompt_tokens"],
            "input_tokens_details": full["prompt_tokens_details"],
            "output_tokens": full["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": full["total_tokens"],
        },
    }


def end_status(choice: Choice) -> str:
    """The status of a response whose text has ended."""
    return "incomplete" if choice.reason == "length" else "completed"


def _output(choice: Choice, name: str) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    if choice.answer.reasoning:
        part = {"type": "reasoning_text", "text": choice.answer.reasoning.strip()}
        out.append({"type": "reasoning", "id": f"rs_{name}", "summary": [], "content": [part]})
    if choice.answer.content or not choice.calls:
        out.append(_message(name, [_part(choice.answer.content)], "completed"))
    for call in choice.calls:
        out.append(
            {
                "type": "function_call",
                "id": f"fc_{call.id}",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
        )
    return out


def _message(name: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"type": "message", "id": f"msg_{name}", "role": "assistant", "status": status, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


async def response_events(request: TextRequest, calls: Calls) -> AsyncIterator[Mapping[str, Any]]:
    """The response as events; each has a type and a number.

    Raises:
        EdgekitError: the job failed.
    """
    (choice,) = begin_choices(request)
    name, number = new_id("resp"), 0

    def event(kind: str, **more: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        return {"type": f"response.{kind}", "sequence_number": number - 1, **more}

    at = {"item_id": f"msg_{name}", "output_index": 0, "content_index": 0}
    begun = False
    yield event("created", response=response_body(request, choice, name, "in_progress"))
    async for _, happened in calls:
        delta, _ = take(request, choice, happened)
        if delta.content and not begun:
            begun = True
            yield event("output_item.added", output_index=0, item=_message(name, [], "in_progress"))
            yield event("content_part.added", **at, part=_part(""))
        if delta.content:
            yield event("output_text.delta", **at, delta=delta.content, logprobs=[])
    if begun:
        text = choice.answer.content
        yield event("output_text.done", **at, text=text, logprobs=[])
        yield event("content_part.done", **at, part=_part(text))
        yield event("output_item.done", output_index=0, item=_message(name, [_part(text)], "completed"))
    for i, item in enumerate(o for o in _output(choice, name) if o["type"] == "function_call"):
        place = {"output_index": i + begun}
        yield event("output_item.added", **place, item={**item, "arguments": "", "status": "in_progress"})
        yield event("function_call_arguments.done", **place, item_id=item["id"], arguments=item["arguments"])
        yield event("output_item.done", **place, item=item)
    status = end_status(choice)
    yield event(
        "completed" if status == "completed" else "incomplete", response=response_body(request, choice, name, status)
    )
