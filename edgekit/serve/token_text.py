"""The text and bytes of single tokens, for logarithms of probabilities."""

from __future__ import annotations

import re
from typing import Any

from edgekit.generate.tokenizer import Tokenizer

BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """What a token adds to a text; special tokens have their own name."""
    before = tokenizer.encode("a", special=False)[-1:]
    alone, both = tokenizer.decode(before), tokenizer.decode([*before, token])
    return both[len(alone) :] if len(both) > len(alone) else tokenizer.token(token) or ""


def token_entry(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    """As OpenAI's API shows a token."""
    found = BYTE.fullmatch(tokenizer.token(token) or "")
    text = token_text(tokenizer, token)
    return {
        "token": text,
        "logprob": logprob,
        "bytes": [int(found[1], 16)] if found else list(text.encode()),
    }
