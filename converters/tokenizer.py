"""What exports ask of a bundle's tokenizer."""

from __future__ import annotations

from edgekit.generate.tokenizer import Tokenizer

PROBE = "a"


def around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a text."""
    text, ids = tokenizer.encode(PROBE, special=False), tokenizer.encode(PROBE)
    at = next((i for i in range(len(ids)) if ids[i : i + len(text)] == text), 0)
    return ids[:at], ids[at + len(text) :]
