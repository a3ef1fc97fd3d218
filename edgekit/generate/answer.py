"""An answer as it comes, taken apart: reasoning, text, and calls of tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.generate.tool_calls import MARKS, ToolCall, parse_calls

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Delta:
    """A step of an answer; one of the two is "" mostly."""

    content: str = ""
    reasoning: str = ""


class Answer:
    """Takes text and gives what is known of it.

    What stands between <think> and </think> at the beginning is reasoning. With tools, text that may be a call is held
    back until the answer ends.

    Attributes:
        content: the text so far.
        reasoning: the reasoning so far.
    """

    def __init__(self, tools: Sequence[str] = (), thinking: bool = False, forced_call: bool = False) -> None:
        """Begins an answer.

        Args:
            tools: names of the functions that may be called.
            thinking: the prompt has opened the reasoning already.
            forced_call: the answer is a call and nothing else.
        """
        self.content = self.reasoning = ""
        self._tools, self._forced = tuple(tools), forced_call
        self._state = "reasoning" if thinking else "begin"
        self._held = ""
        self._calls_possible = bool(tools)

    def push(self, text: str) -> Delta:
        """The next piece of text."""
        self._held += text
        if self._state == "begin":
            stripped = self._held.lstrip()
            if stripped.startswith(OPEN):
                self._state, self._held = "reasoning", stripped.removeprefix(OPEN)
            elif OPEN.startswith(stripped):  # also ""
                return Delta()
            else:
                self._state, self._held = "content", stripped
        reasoning = self._take_reasoning() if self._state == "reasoning" else ""
        content = self._take_content() if self._state == "content" else ""
        return self._add(content, reasoning)

    def _add(self, content: str, reasoning: str) -> Delta:
        if not self.content:
            content = content.lstrip("\n") if self.reasoning or reasoning else content
        if not self.reasoning:
            reasoning = reasoning.lstrip("\n")
        self.content += content
        self.reasoning += reasoning
        return Delta(content, reasoning)

    def _take_reasoning(self) -> str:
        before, closed, after = self._held.partition(CLOSE)
        if closed:
            self._state, self._held = "content", after
            return before
        keep = _partial(self._held, (CLOSE,))
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def _take_content(self) -> str:
        if not self._calls_possible:
            out, self._held = self._held, ""
            return out
        if self._forced:
            return ""
        marks = ("<tool_call>", *MARKS)
        if not self.content.strip() and (not self._held.strip() or self._held.lstrip()[0] in "{["):
            return ""  # the whole answer may be a call
        found = [at for mark in marks if (at := self._held.find(mark)) >= 0]
        keep = len(self._held) - min(found) if found else _partial(self._held, marks)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def message(self, calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
        """The answer as a message of the assistant, to be put behind the others of its conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning.strip()
        if calls:
            message["content"] = self.content or None
            message["tool_calls"] = [call.entry() for call in calls]
        return message

    def end(self) -> tuple[Delta, list[ToolCall]]:
        """What was held back, and the calls."""
        held, self._held = self._held, ""
        if self._state == "reasoning":
            return self._add("", held), []
        if not self._calls_possible:
            return self._add(held, ""), []
        text, calls = parse_calls(held, self._tools)
        return self._add(text if calls else held, ""), calls


def _partial(text: str, marks: Sequence[str]) -> int:
    """Characters at the end of a text with which one of the marks may begin."""
    return max((n for mark in marks for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)
