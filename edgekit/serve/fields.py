"""Members of a request's JSON object, checked by type and range."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from edgekit.serve.errors import ApiError, bad

Body = Mapping[str, Any]


def parse_json(data: bytes) -> dict[str, Any]:
    """A request's JSON object.

    Raises:
        ApiError: it is none.
    """
    try:
        found = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON that can be read ({error})", "invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, "the body is not a JSON object", "invalid_json")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def number(body: Body, name: str, default: float, least: float, most: float) -> float:
    """A number; `default` where it is left out or null."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise bad(f"'{name}' must be a number from {least:g} to {most:g}", name)
    if not math.isfinite(value):
        raise bad(f"'{name}' must be finite", name)
    return float(value)


def whole(body: Body, name: str, default: int, least: int, most: int) -> int:
    """A whole number; `default` where it is left out or null."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise bad(f"'{name}' must be a whole number from {least} to {most}", name)
    return value


def flag(body: Body, name: str) -> bool:
    """True or false; false where it is left out or null."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad(f"'{name}' must be true or false", name)
    return bool(value)


def text(body: Body, name: str, default: str = "") -> str:
    """A text that can be encoded; `default` where it is left out or null."""
    value = body.get(name)
    if value is None:
        return default
    return checked_text(value, name)


def checked_text(value: object, name: str) -> str:
    """A text that UTF-8 can hold.

    Raises:
        ApiError: it is none.
    """
    if not isinstance(value, str):
        raise bad(f"'{name}' must be a text", name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise bad(f"'{name}' holds half of a surrogate pair", name) from error
    return value


def table(body: Body, name: str) -> dict[str, Any]:
    """An object; an empty one where it is left out or null."""
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(f"'{name}' must be an object", name)
    return value


def stop_strings(body: Body) -> tuple[str, ...]:
    """The member "stop": a text or at most 16 of them."""
    value = body.get("stop")
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or len(found) > 16:
        raise bad("'stop' must be a text, or a list of at most 16", "stop")
    return tuple(s for s in (checked_text(s, "stop") for s in found) if s)


def biases(body: Body, vocab_size: int) -> tuple[tuple[int, float], ...]:
    """The member "logit_bias": token ids as texts, and numbers from -100 to 100."""
    out = []
    for key, value in table(body, "logit_bias").items():
        if not key.isascii() or not key.isdigit() or len(key) > 9 or int(key) >= vocab_size:
            raise bad(f"'logit_bias' has {key!r}, which is no token of the {vocab_size}", "logit_bias")
        out.append((int(key), number({"logit_bias": value}, "logit_bias", 0.0, -100, 100)))
    return tuple(out)
