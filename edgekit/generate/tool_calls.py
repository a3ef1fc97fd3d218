"""Calls of tools: those that a model writes, and the JSON schema of a call that it must write.

Models write calls in a few forms, which their templates teach them:
Qwen and Hermes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>
Llama: {"name": ..., "parameters": {...}}, maybe behind <|python_tag|>
Mistral: [TOOL_CALLS] [{"name": ..., "arguments": {...}}]
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.S)
MARKS = ("<|python_tag|>", "[TOOL_CALLS]")


@dataclass(frozen=True)
class ToolCall:
    """A call that the model wrote; arguments are JSON."""

    id: str
    name: str
    arguments: str

    def entry(self) -> dict[str, Any]:
        """The call as a member of a message's "tool_calls", as in OpenAI's API."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def call_schema(tools: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a call of one of the functions.

    Args:
        tools: objects with a "function", which has a "name" and maybe "parameters" (a JSON schema).
        names: of the functions that may be called.
    """
    calls = []
    for tool in tools:
        function = tool["function"]
        if function["name"] in names:
            members = {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            }
            calls.append(
                {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
            )
    return {"anyOf": calls}


def parse_calls(text: str, names: Sequence[str]) -> tuple[str, list[ToolCall]]:
    """What of an answer is text, and its calls. What looks like a call and is none stays text.

    Args:
        text: the whole answer.
        names: of the functions that there are.
    """
    blocks = list(BLOCK.finditer(text))
    if blocks:
        found = [_calls_of(b[1], names) for b in blocks]
        if all(found):
            return BLOCK.sub("", text).strip(), [call for calls in found for call in calls]
        return text, []
    for mark in MARKS:
        before, marked, after = text.partition(mark)
        if marked and (calls := _calls_of(after, names)):
            return before.strip(), calls
    calls = _calls_of(text, names)
    return ("", calls) if calls else (text, [])


def _calls_of(text: str, names: Sequence[str]) -> list[ToolCall]:
    """The calls that a text consists of; none if it is anything else."""
    text = text.strip()
    if not text.startswith(("{", "[")):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        lines = [line for line in re.split(r";\s*|\n", text) if line.strip()]
        if len(lines) < 2:
            return []
        parts = [_calls_of(line, names) for line in lines]  # Llama writes several this way
        return [call for calls in parts for call in calls] if all(parts) else []
    calls = [_call(item, names) for item in (found if isinstance(found, list) else [found])]
    return [c for c in calls if c is not None] if all(calls) else []


def _call(item: object, names: Sequence[str]) -> ToolCall | None:
    if not isinstance(item, dict) or item.get("name") not in names:
        return None
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    return ToolCall(new_id("call"), item["name"], json.dumps(arguments, ensure_ascii=False))


def new_id(kind: str) -> str:
    """A name that nothing else has, as "call_5f..."."""
    return f"{kind}_{secrets.token_hex(12)}"
