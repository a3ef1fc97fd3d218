"""Messages of a request as chat templates read them."""

from __future__ import annotations

import json
from typing import Any

from edgekit.serve.errors import bad
from edgekit.serve.fields import checked_text

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MOST_MESSAGES = 2000


def read_messages(value: object, pictures: list[bytes] | None = None) -> list[dict[str, Any]]:
    """The member "messages": contents become texts, and arguments of calls become objects. `pictures` gets those of the
    user's messages, in whose content a part stands for each then; None: the model sees none.

    Raises:
        ApiError: they are not what the API says.
    """
    if not isinstance(value, list) or not value:
        raise bad("'messages' must be a list with at least one message", "messages")
    if len(value) > MOST_MESSAGES:
        raise bad(f"'messages' has more than {MOST_MESSAGES} messages", "messages")
    return [_message(m, f"messages[{i}]", pictures) for i, m in enumerate(value)]


def _message(m: object, where: str, pictures: list[bytes] | None) -> dict[str, Any]:
    if not isinstance(m, dict) or m.get("role") not in ROLES:
        raise bad(f"'{where}' must be an object whose role is one of {', '.join(ROLES)}", where)
    out: dict[str, Any] = {"role": "system" if m["role"] == "developer" else m["role"]}
    calls = m.get("tool_calls")
    content = m.get("content")
    if content is None and m["role"] != "assistant":
        raise bad(f"'{where}' has no content", where)
    if pictures is not None and m["role"] == "user" and isinstance(content, list):
        out["content"] = _parts(content, f"{where}.content", pictures)
    else:
        out["content"] = "" if content is None else flat_content(content, f"{where}.content")
    for name in ("name", "tool_call_id", "reasoning_content"):
        if m.get(name) is not None:
            out[name] = checked_text(m[name], f"{where}.{name}")
    if calls is not None:
        if not isinstance(calls, list) or m["role"] != "assistant":
            raise bad(f"'{where}.tool_calls' must be a list, in a message of the assistant", where)
        out["tool_calls"] = [_call(c, f"{where}.tool_calls[{i}]") for i, c in enumerate(calls)]
    return out


def _parts(content: list[Any], where: str, pictures: list[bytes]) -> list[dict[str, str]] | str:
    """Parts as templates read them, or a text if they are nothing else; pictures come to the others."""
    from edgekit.serve.pictures import MOST_PICTURES, picture_from

    if not any(isinstance(part, dict) and part.get("type") == "image_url" for part in content):
        return flat_content(content, where)
    parts = []
    for part in content:
        if isinstance(part, dict) and part.get("type") == "image_url":
            pictures.append(picture_from(part, where))
            parts.append({"type": "image"})
        else:
            parts.append({"type": "text", "text": flat_content([part], where)})
    if len(pictures) > MOST_PICTURES:
        raise bad(f"the messages have more than {MOST_PICTURES} pictures", "messages")
    return parts


def flat_content(content: object, where: str) -> str:
    """A text, or a list of parts that are texts.

    Raises:
        ApiError: it is neither; pictures and sound are named.
    """
    if not isinstance(content, list):
        return checked_text(content, where)
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "input_text", "output_text"):
            raise bad(f"'{where}' has a part of type {kind!r}; this model reads text only", where)
        parts.append(checked_text(part.get("text"), where))
    return "".join(parts)


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad(f"'{where}' must have a function with a name", where)
    arguments = function.get("arguments", "{}")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise bad(f"'{where}' has arguments that are not JSON", where) from error
    call_id = call.get("id")
    return {
        "id": call_id if isinstance(call_id, str) else "",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }
