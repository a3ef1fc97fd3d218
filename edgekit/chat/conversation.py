"""A conversation with a model: messages, and answers that evaluate only what is new."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.errors import BundleError, ContextFullError, RuntimeFailure
from edgekit.files import write_atomically
from edgekit.generate.dialogue import Prompt, render_dialogue
from edgekit.generate.generation import Generation
from edgekit.generate.grammar import Grammar
from edgekit.generate.loop import TextModel
from edgekit.runtime.values import Sampling

Message = dict[str, Any]
ROLES = ("system", "user", "assistant")


@dataclass
class Conversation:
    """Messages with a model, whose session keeps what was evaluated.

    Attributes:
        model: an open bundle; its own session is the conversation's.
        sampling: how tokens are chosen; each answer takes the next seed.
        max_tokens: most tokens of an answer.
        grammar: what each answer must be; None for any text.
        notify: called with one line when old messages are left out.
        messages: so far, a system message first if there is one.
        evaluated: tokens of the last prompt that were evaluated, and not kept from before.
        finish_reason: of the last answer, as in `Generation`; "" when it was left.
    """

    model: TextModel
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 512
    grammar: Grammar | None = None
    notify: Callable[[str], None] = print
    messages: list[Message] = field(default_factory=list)
    evaluated: int = 0
    finish_reason: str = ""

    @property
    def system(self) -> str:
        """The system message; "" if there is none."""
        return self.messages[0]["content"] if self.messages and self.messages[0]["role"] == "system" else ""

    def set_system(self, text: str) -> None:
        """Sets the system message, or removes it for ""."""
        rest = self.messages[1:] if self._begins_with_system() else self.messages
        self.messages = [*([{"role": "system", "content": text}] if text else []), *rest]

    def _begins_with_system(self) -> bool:
        return bool(self.messages) and self.messages[0]["role"] == "system"

    def clear(self) -> None:
        """Forgets all messages but the system message."""
        self.messages = self.messages[:1] if self._begins_with_system() else []

    def take_back(self) -> str:
        """Removes the last message of the user and what came after it; returns its text.

        Raises:
            RuntimeFailure: there is none.
        """
        for at in range(len(self.messages) - 1, -1, -1):
            if self.messages[at]["role"] == "user":
                text = str(self.messages[at]["content"])
                del self.messages[at:]
                return text
        raise RuntimeFailure("there is no message to go back to")

    def answer(self, text: str) -> Iterator[str]:
        """Adds a message and yields the answer as it comes; the answer becomes a message, also one that is left.

        Raises:
            ContextFullError: the message alone does not fit the context; it is not kept.
            EdgekitError: from the runtime.
        """
        self.messages.append({"role": "user", "content": text})
        self.finish_reason = ""
        try:
            prompt = self._fitting(self._reserve())
        except BaseException:
            self.messages.pop()
            raise
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1, penalty_begin=len(prompt.ids))
        pieces: list[str] = []
        try:
            for piece in self._generate(prompt):
                pieces.append(piece)
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(pieces).strip()})

    def _generate(self, prompt: Prompt) -> Iterator[str]:
        """The answer's text; when the context is full, older messages are left out and it goes on."""
        answer: list[int] = []
        while True:
            stream = self._stream([*prompt.ids, *answer], self.max_tokens - len(answer), prompt.stop)
            for piece in stream:
                answer += [piece.token] if piece.token >= 0 else []
                yield piece.text
            self.finish_reason = stream.finish_reason
            if stream.finish_reason != "context" or self.grammar is not None:
                return
            dropped = len(self.messages)
            try:
                prompt = self._fitting(len(answer) + self._reserve())
            except ContextFullError:
                return
            if len(self.messages) == dropped:
                return

    def _stream(self, ids: list[int], most: int, stop: tuple[str, ...]) -> Generation:
        def count(done: int, total: int) -> None:
            self.evaluated = total - stream.cached_tokens

        stream = self.model.generate(ids, most, self.sampling, stop, reuse=True, progress=count, grammar=self.grammar)
        return stream

    def _reserve(self) -> int:
        """Tokens that are kept free for an answer."""
        return min(self.max_tokens, self.model.plan.context // 4)

    def _fitting(self, reserve: int) -> Prompt:
        """The prompt of the messages with `reserve` tokens to spare; the oldest exchanges are left out until it fits.

        Raises:
            ContextFullError: the system message and the last one do not fit.
        """
        context, dropped = self.model.plan.context, 0
        prompt = render_dialogue(self.model.tokenizer, self.messages)
        while len(prompt.ids) + reserve > context and (gone := self._oldest_exchange()):
            begin = 1 if self._begins_with_system() else 0
            del self.messages[begin : begin + gone]
            dropped += gone
            prompt = render_dialogue(self.model.tokenizer, self.messages)
        if len(prompt.ids) >= context:
            raise ContextFullError(
                f"the message makes a prompt of {len(prompt.ids)} tokens, and the context has {context}; shorten it, "
                "or start with a larger --ctx-size"
            )
        if dropped:
            kept = "the system message and " if self._begins_with_system() else ""
            self.notify(f"the context is full: left out the {dropped} oldest messages, kept {kept}the rest")
        return prompt

    def _oldest_exchange(self) -> int:
        """Messages from the oldest of the user up to the next of the user; 0 if that would be the last one."""
        begin = 1 if self._begins_with_system() else 0
        users = [i for i, m in enumerate(self.messages) if i > begin and m["role"] == "user"]
        return users[0] - begin if users else 0

    def save(self, path: Path) -> None:
        """Writes the messages as JSON.

        Raises:
            RuntimeFailure: the file cannot be written.
        """
        text = json.dumps({"messages": self.messages}, ensure_ascii=False, indent=2)
        try:
            write_atomically(path, text + "\n")
        except OSError as error:
            raise RuntimeFailure(f"{path}: cannot be written ({error.strerror})") from error

    def load(self, path: Path) -> None:
        """Takes the messages of a file that `save` wrote.

        Raises:
            BundleError: it cannot be read, or holds no such messages; nothing is changed.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BundleError(f"{path}: not a conversation that can be read ({error})") from error
        messages = found.get("messages") if isinstance(found, dict) else None
        if not isinstance(messages, list) or not all(_is_message(m) for m in messages):
            raise BundleError(
                f"{path}: not a conversation; it is an object with 'messages' that have 'role' and 'content'"
            )
        self.messages = [{"role": m["role"], "content": m["content"]} for m in messages]


def _is_message(m: object) -> bool:
    return isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str)
