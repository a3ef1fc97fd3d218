"""A model for programs with an event loop: many texts at a time, which share passes over the weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import ContextFullError, RuntimeFailure
from edgekit.generate.answer import Answer
from edgekit.generate.chatting import prepare_chat
from edgekit.generate.generation import Piece
from edgekit.generate.grammar import Grammar
from edgekit.generate.loop import DEFAULT_TOKENS
from edgekit.generate.tool_calls import ToolCall
from edgekit.runtime.values import Options, Sampling
from edgekit.serve.bundles import Bundles, open_bundle
from edgekit.serve.calls import Calls
from edgekit.serve.job import Failed, Job, Token
from edgekit.serve.scheduler import Limits, Scheduler

NO_LIMIT = 1 << 30  # jobs that wait, and seconds: a program limits itself


class AsyncModel:
    """A bundle that several tasks of an event loop use at a time. Use it as `async with`, or call `close`.

    Texts are written side by side, up to `sessions` of them; others wait for their turn. A text that nobody iterates
    any more is given up.
    """

    def __init__(
        self,
        path: str | Path,
        ram: str | int | None = None,
        *,
        context: int = 0,
        threads: int = 0,
        sessions: int = 4,
        lora: str | Path | None = None,
    ) -> None:
        """Opens a bundle; its weights are read with the first text.

        Args:
            path: the `.edgekit` folder.
            ram: hard budget for everything the runtime allocates, all texts included; None for no limit.
            context: most tokens of prompt and text together; 0 for the model's, at most 2048.
            threads: compute threads; 0 for one per core.
            sessions: most texts at a time.
            lora: a LoRA adapter to apply: a folder that PEFT saved it to, or a file of `edgekit adapter`.

        Raises:
            BudgetError: the budget is below the model's floor, which the message names.
            BundleError: not a bundle, or damaged.
        """
        self._bundle = open_bundle(Path(path), context)
        options = Options(ram=ram, threads=threads, sessions=sessions, lora=lora)
        self._scheduler = Scheduler(Bundles([self._bundle], options), Limits(NO_LIMIT, NO_LIMIT))

    async def __aenter__(self) -> AsyncModel:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all texts and frees the memory."""
        await asyncio.to_thread(self._scheduler.close)

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = DEFAULT_TOKENS,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        grammar: Grammar | None = None,
    ) -> AsyncIterator[Piece]:
        """Continues a prompt; arguments as for `TextModel.generate`.

        Raises:
            RuntimeFailure: the prompt is empty, or longer than the context.
            EdgekitError: while it is iterated: the runtime failed.
        """
        ids = tuple(self._bundle.tokenizer.encode(prompt)) if isinstance(prompt, str) else tuple(prompt)
        if not ids:
            raise RuntimeFailure("the prompt is empty")
        if len(ids) > self._bundle.context:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens, and the context of {self._bundle.context} has no room for them; "
                "open with a larger context"
            )
        job = Job(
            self._bundle.id,
            ids,
            max_tokens,
            sampling or Sampling(),
            tuple(s for s in stop if s),
            grammar,
            ignore_eos=ignore_eos,
        )
        return self._pieces(job)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int = DEFAULT_TOKENS,
        sampling: Sampling | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        schema: str | Mapping[str, Any] | None = None,
        tool_choice: str = "auto",
    ) -> AsyncChat:
        """The answer to messages; arguments as for `TextModel.chat`.

        Returns:
            The pieces; when they have ended, its `message` is the answer with its calls.

        Raises:
            EdgekitError: the messages or the schema cannot be taken; and as `generate`.
        """
        request = prepare_chat(self._bundle.tokenizer, messages, tools, tool_choice, schema)
        grammar = None if request.schema is None else self.grammar("json_schema", request.schema)
        prompt = request.prompt
        return AsyncChat(self.generate(prompt.ids, max_tokens, sampling, prompt.stop, grammar=grammar), request.answer)

    def grammar(self, kind: str, text: str | Mapping[str, Any]) -> Grammar:
        """What a text must be; as `TextModel.grammar`."""
        return self._bundle.grammar(kind, text if isinstance(text, str) else dict(text))

    async def _pieces(self, job: Job) -> AsyncIterator[Piece]:
        async with Calls(self._scheduler, (job,)) as calls:
            async for _, event in calls:
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Token):
                    yield Piece(event.token, event.text)


class AsyncChat(AsyncIterator[Piece]):
    """An answer under way: an asynchronous iterator of pieces, whose text is as the model writes it.

    Attributes:
        calls: of tools; known when the pieces have ended.
    """

    def __init__(self, pieces: AsyncIterator[Piece], answer: Answer) -> None:
        """As `AsyncModel.chat`, which makes it."""
        self.calls: tuple[ToolCall, ...] = ()
        self._pieces, self._answer, self._ended = pieces, answer, False

    async def __anext__(self) -> Piece:
        """The next piece.

        Raises:
            StopAsyncIteration: the answer is at its end.
            EdgekitError: from the runtime.
        """
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            if not self._ended:
                self._ended = True
                self.calls = tuple(self._answer.end()[1])
            raise
        self._answer.push(piece.text)
        return piece

    async def message(self) -> dict[str, Any]:
        """The answer as a message; pieces that nobody has asked for are made first. As `ChatGeneration.message`.

        Raises:
            EdgekitError: from the runtime.
        """
        async for _ in self:
            pass
        return self._answer.message(self.calls)
