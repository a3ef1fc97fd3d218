"""JSON as the runtime reads it (runtime/src/format/json.cpp), so that a text means one thing to both, or nothing."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

DEPTH = 32  # arrays and objects within each other, as the runtime has it
# A string with the colon that makes it a key, or a bracket. In valid JSON, strings begin where the scan says so.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|([\[{])|([\]}])')


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number out of range")
    return value


def _int(text: str) -> int:
    _float(text)
    return int(text)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return table


def _check_structure(text: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(text):
        key, colon, opening, closing = token.groups()
        depth += (opening is not None) - (closing is not None)
        if depth > DEPTH:
            raise ValueError("nested too deeply")
        if colon is not None and "\\" in key:
            raise ValueError("an escape in a key")


def parse(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Beside what RFC 8259 forbids, texts are refused that readers understand in different ways: NaN and Infinity, numbers
    beyond a double, a key that stands twice in an object, escapes in keys, more than 32 levels of arrays and objects.

    Raises:
        ValueError: the text is not such JSON.
    """
    text = raw.decode("utf-8")
    _check_structure(text)
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_constant, parse_float=_float, parse_int=_int)
