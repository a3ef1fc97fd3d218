"""Seeded changes to texts, bytes and JSON values, and what a parser in Python must do with them."""

from __future__ import annotations

import copy
import json
import random
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edgekit.errors import EdgekitError

MISSING = object()
VALUES: list[Any] = [
    MISSING, None, 0, -1, 1, 3, 1 << 24, 1 << 31, 1 << 63, 10**400, 0.5, -0.5, 1e-300, 1e300, float("nan"),
    float("inf"), True, False, "", "x", "x\ny", "\0", "../x", "\ud800", [], ["x"], [[]], [1] * 200, [None],
    {}, {"x": 1}, {"": {}},
]  # fmt: skip
TOKENS = [
    b"", b"0", b"-1", b"1e999", b"NaN", b"null", b"[]", b"{}", b'""', b"true", b"\0", b"\xff\xfe", b"\xed\xa0\x80",
    b"9" * 30, b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b'"\\ud800"', b"\xef\xbb\xbf", b"\r\n",
]  # fmt: skip
SECONDS = 20  # after which a parser counts as hanging


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with what is at a path replaced, or taken out if `new` is `MISSING`."""
    if not at:
        return None if new is MISSING else new
    out = copy.deepcopy(value)
    holder = out
    for key in at[:-1]:
        holder = holder[key]
    if new is MISSING:
        del holder[at[-1]]
    else:
        holder[at[-1]] = new
    return out


def changed_json(value: Any, rng: random.Random) -> bytes:
    """JSON text of a value in which one to three places were changed; now and then torn as text too."""
    for _ in range(rng.randint(1, 3)):
        at = rng.choice([(), *places(value)] if rng.random() < 0.05 else [*places(value)] or [()])
        value = replaced(value, at, rng.choice(VALUES))
    text = json.dumps(value, indent=rng.choice([None, 1])).encode()
    return changed_bytes(text, rng) if rng.random() < 0.2 else text


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to four small changes: bits, spans, cuts, or something inserted."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(out) + 1), rng.randint(1, 16)
        match rng.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = rng.choice(TOKENS)
            case 4:
                out[at : at + size] = rng.choice(TOKENS)
            case 5:
                to = rng.randrange(len(out) + 1)
                out[to:to] = out[at : at + size]
            case _:
                if rng.random() < 0.2:
                    del out[at:]
    return bytes(out)


@contextmanager
def no_hang() -> Iterator[None]:
    """Raises TimeoutError within a block that takes `SECONDS`."""

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answers(parse: Callable[[], Any], given: object, most: int) -> bool:
    """Whether `parse` came back with a value; False for an EdgekitError of one line. Anything else fails.

    Args:
        parse: the parser, with its input.
        given: the input, for whoever has to look at a failure.
        most: bytes that Python may allocate meanwhile.
    """
    tracemalloc.start()
    try:
        with no_hang():
            parse()
        return True
    except EdgekitError as error:
        text = str(error)
        assert text, given
        assert len(text.splitlines()) == 1, (text, given)
        return False
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error} for {given!r}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most, (peak, given)
