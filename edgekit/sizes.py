"""Sizes in bytes, read in one place and strictly: a budget that is misread is no budget."""

from __future__ import annotations

import re
from fractions import Fraction

from edgekit.errors import RuntimeFailure

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?|\.[0-9]{1,20})\s*([kmgt]?)(?:i?b)?\s*")
_MOST = (1 << 63) - 1  # the runtime counts in 64 bits


def parse_bytes(text: str | float | None) -> int:
    """A size in bytes: a number, or one with K, M, G or T (powers of 1024; "400M", ".3G", "1.5GiB").

    Args:
        text: the size; None where it was left out, which gives 0 and stands for no limit.

    Raises:
        RuntimeFailure: not a size, below one byte, or beyond 64 bits.
    """
    if text is None:
        return 0
    match = _SIZE.fullmatch(str(text).lower())
    if match is None:
        raise RuntimeFailure(f"'{text}' is not a size; write bytes, or a number with K, M or G, as in 400M")
    size = int(Fraction(match[1]) * _UNITS[match[2]])
    if size < 1:
        raise RuntimeFailure(f"'{text}' is less than one byte; write a size as in 400M, or leave it out for no limit")
    if size > _MOST:
        raise RuntimeFailure(f"'{text}' is more bytes than 64 bits count; write a size as in 400M")
    return size
