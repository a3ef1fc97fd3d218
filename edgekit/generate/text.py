"""The text of a generation: token ids become text as they come, and stop strings end it."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.generate.tokenizer import Stream, Tokenizer


class StopStrings:
    """Text that may be the beginning of a stop string is held back until that is decided.

    Attributes:
        found: the stop string that ended the text; "" before.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """`stop`: the strings; empty ones do not count."""
        self._stop = tuple(s for s in stop if s)
        self._text = ""
        self.found = ""

    def push(self, text: str) -> str:
        """What of the text so far can be shown."""
        self._text += text
        found = [(at, s) for s in self._stop if (at := self._text.find(s)) >= 0]
        if found:
            at, self.found = min(found)
            out, self._text = self._text[:at], ""
            return out
        keep = max((n for s in self._stop for n in range(1, len(s)) if self._text.endswith(s[:n])), default=0)
        out, self._text = self._text[: len(self._text) - keep], self._text[len(self._text) - keep :]
        return out

    def rest(self) -> str:
        """What is held back, when the text ended without a stop string."""
        out, self._text = self._text, ""
        return out


class TextAssembler:
    """From tokens to text that can be shown: whole characters, nothing of a stop string."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        """The text goes on behind the tokens of `prompt`."""
        self._stream, self._held = Stream(tokenizer, prompt), StopStrings(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string came."""
        return bool(self._held.found)

    def push(self, token: int) -> str:
        """The text that a token completes; "" while a character or the beginning of a stop string is undecided."""
        return self._held.push(self._stream.push(token))

    def rest(self) -> str:
        """What was held back, at the end of a text that no stop string ended."""
        return self._held.rest()
