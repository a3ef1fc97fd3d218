"""An answer to messages: what is prepared before it, and the pieces that become a message."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import RuntimeFailure
from edgekit.generate.answer import OPEN, Answer
from edgekit.generate.dialogue import Prompt, render_dialogue
from edgekit.generate.generation import Generation, Piece
from edgekit.generate.tokenizer import Tokenizer
from edgekit.generate.tool_calls import ToolCall, call_schema


@dataclass(frozen=True)
class ChatRequest:
    """What an answer begins with.

    Attributes:
        prompt: that it follows.
        answer: that takes its text apart.
        schema: JSON schema of the whole text; None if it is free.
    """

    prompt: Prompt
    answer: Answer
    schema: str | Mapping[str, Any] | None


def split_pictures(messages: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """Messages in which pictures are only named, as templates read them, and the pictures in order.

    Raises:
        RuntimeFailure: a part of a content is neither a text nor a picture.
    """
    pictures: list[Any] = []

    def part(given: Any) -> dict[str, Any]:
        kind = given.get("type") if isinstance(given, Mapping) else None
        if kind == "text" and isinstance(given.get("text"), str):
            return {"type": "text", "text": given["text"]}
        if kind == "image" and isinstance(given.get("image"), str | Path | bytes):
            pictures.append(given["image"])
            return {"type": "image"}
        raise RuntimeFailure(
            'a part of a message must be {"type": "text", "text": ...} or {"type": "image", "image": a file or bytes}'
        )

    def message(given: Mapping[str, Any]) -> Mapping[str, Any]:
        content = given.get("content")
        return {**given, "content": [part(p) for p in content]} if isinstance(content, list) else given

    return [message(m) for m in messages], pictures


def prepare_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    tool_choice: str,
    schema: str | Mapping[str, Any] | None,
) -> ChatRequest:
    """From the arguments of `TextModel.chat`.

    Raises:
        BundleError: no messages, or the chat template does not take them.
        RuntimeFailure: there is no such tool, or a schema and a tool that must be called.
    """
    offered = [] if tools is None or tool_choice == "none" else list(tools)
    names = tuple(_name(tool) for tool in offered)
    required = {"auto": (), "none": (), "required": names}.get(tool_choice, (tool_choice,))
    if tool_choice == "required" and not names:
        raise RuntimeFailure("tool_choice is 'required', and there are no tools; give some")
    if missing := [name for name in required if name not in names]:
        raise RuntimeFailure(f"tool_choice names {missing[0]!r}, which is none of the tools; give that tool too")
    if required and schema is not None:
        raise RuntimeFailure("an answer cannot both call a tool and follow a schema; leave out schema or tool_choice")
    prompt = render_dialogue(tokenizer, [_readable(message) for message in messages], offered or None)
    answer = Answer(names, prompt.text.rstrip().endswith(OPEN), bool(required))
    return ChatRequest(prompt, answer, call_schema(offered, required) if required else schema)


def _name(tool: Mapping[str, Any]) -> str:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise RuntimeFailure('a tool must be {"type": "function", "function": {"name": ..., "parameters": ...}}')
    return name


def _readable(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message as templates read it: OpenAI's API has the arguments of calls as text, templates as objects."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = call["function"]
        arguments = function.get("arguments", "{}")
        try:
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError as error:
            raise RuntimeFailure(f"the arguments of a call of {function.get('name')!r} are not JSON") from error
        calls.append({**call, "function": {**function, "arguments": arguments}})
    return {**message, "content": message.get("content") or "", "tool_calls": calls}


class ChatGeneration(Iterator[Piece]):
    """An answer under way: an iterator of pieces, whose text is as the model writes it.

    Attributes:
        calls: of tools; known when the pieces have ended.
    """

    def __init__(self, pieces: Generation, answer: Answer) -> None:
        """As `TextModel.chat`, which makes it."""
        self.calls: tuple[ToolCall, ...] = ()
        self._pieces, self._answer, self._ended = pieces, answer, False

    def __next__(self) -> Piece:
        """The next piece.

        Raises:
            StopIteration: the answer is at its end.
            EdgekitError: from the runtime.
        """
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._end()
            raise
        self._answer.push(piece.text)
        return piece

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self.calls = tuple(self._answer.end()[1])

    def close(self) -> None:
        """Ends it; the session stays as it is."""
        self._pieces.close()
        self._end()

    @property
    def finish_reason(self) -> str:
        """As `Generation.finish_reason`; "tool_calls" when the answer calls tools."""
        return "tool_calls" if self.calls else self._pieces.finish_reason

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that the session had already; known after the first piece."""
        return self._pieces.cached_tokens

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to be put behind the others; pieces that nobody has asked for are made first.

        It has "role", "content", and where there are any "reasoning_content" and "tool_calls", as in OpenAI's API.

        Raises:
            EdgekitError: from the runtime.
        """
        for _ in self:
            pass
        return self._answer.message(self.calls)
