"""Tools that a request offers, and which of them the model must call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edgekit.generate.tool_calls import call_schema
from edgekit.serve.errors import bad
from edgekit.serve.fields import Body

MOST_TOOLS = 128
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


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
        return call_schema(self.schemas, self.required)


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
