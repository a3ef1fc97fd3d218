"""Tools: what a request offers, the calls that a model writes, and the grammar of a call that it must write.

Models write calls in a few forms, which their templates teach them:
Qwen and Hermes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>
Llama: {"name": ..., "parameters": {...}}, maybe behind <|python_tag|>
Mistral: [TOOL_CALLS] [{"name": ..., "arguments": {...}}]
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.serve.errors import bad
from edgekit.serve.fields import Body

BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|$)", re.S)
MARKS = ("<|python_tag|>", "[TOOL_CALLS]")
MOST_TOOLS = 128
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True)
class ToolCall:
    """A call that the model wrote; arguments are JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Tools:
    """What a request offers.

    Attributes:
        schemas: of the functions, as templates read them; empty when there are none, or none may be called.
        required: the functions of which one must be called; empty when the model is free.
    """

    schemas: tuple[dict[str, Any], ...] = ()
    required: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the functions."""
        return tuple(s["function"]["name"] for s in self.schemas)

    def grammar(self) -> dict[str, Any]:
        """The JSON schema of a call of one of those that are required."""
        calls = []
        for schema in self.schemas:
            function = schema["function"]
            if function["name"] in self.required:
                members = {
                    "name": {"const": function["name"]},
                    "arguments": function.get("parameters") or {"type": "object"},
                }
                calls.append(
                    {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
                )
        return {"anyOf": calls}


def read_tools(body: Body) -> Tools:
    """The members "tools" and "tool_choice".

    Raises:
        ApiError: they are not what the API says.
    """
    value, choice = body.get("tools"), body.get("tool_choice")
    if value is None:
        value = []
    if not isinstance(value, list) or len(value) > MOST_TOOLS:
        raise bad(f"'tools' must be a list of at most {MOST_TOOLS}", "tools")
    schemas = tuple(_schema(tool, f"tools[{i}]") for i, tool in enumerate(value))
    names = tuple(s["function"]["name"] for s in schemas)
    if choice in (None, "auto"):
        return Tools(schemas)
    if choice == "none":
        return Tools()
    if choice == "required" and names:
        return Tools(schemas, names)
    if isinstance(choice, dict):
        function = choice.get("function", choice)
        if isinstance(function, dict) and function.get("name") in names:
            return Tools(schemas, (function["name"],))
    raise bad("'tool_choice' must be 'none', 'auto', 'required' with tools, or name one of the tools", "tool_choice")


def _schema(tool: object, where: str) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise bad(f"'{where}' must be of type 'function'", where)
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise bad(f"'{where}' must have a name of letters, digits, '_', '.' and '-'", where)
    if parameters is not None and not isinstance(parameters, dict):
        raise bad(f"'{where}' has parameters that are no JSON schema", where)
    kept = {k: function[k] for k in ("name", "description", "parameters") if function.get(k) is not None}
    return {"type": "function", "function": kept}


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
