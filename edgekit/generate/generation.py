"""A text under way: the loop that pulls tokens from a session and makes text of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgekit.errors import ContextFullError, RuntimeFailure
from edgekit.generate.reuse import batches, depends_on_length, keep_shared, read_prompt, restore_shared
from edgekit.generate.text import TextAssembler
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.pictures import PictureRows
from edgekit.runtime.session import Session
from edgekit.runtime.values import Plan, Sampling, Stats

if TYPE_CHECKING:
    from edgekit.generate.grammar import Grammar, Matcher


GRAMMARS = "a grammar needs the native backend; artifacts take no masks"
PICTURES = "pictures need the native backend; artifacts read tokens alone"


@dataclass(frozen=True)
class Piece:
    """A step of a generation: one token and the text that it completed (maybe none)."""

    token: int
    text: str


class TokenSession(Protocol):
    """What generating needs of a session: the native one, or an artifact's."""

    def eval(self, tokens: Sequence[int]) -> None: ...
    def logits(self, tokens: Sequence[int]) -> npt.NDArray[np.float32]: ...
    def next(self, sampling: Sampling) -> int: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...
    @property
    def position(self) -> int: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def stats(self) -> Stats: ...

    @property
    def kernels(self) -> str: ...
    @property
    def threads(self) -> int: ...


class TextSource(Protocol):
    """What a generation needs of a model."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Limits:
    """What ends a generation: a number of tokens, strings, and the end-of-text token unless that is ignored."""

    max_tokens: int
    stop: tuple[str, ...]
    ignore_eos: bool


class Generation(Iterator[Piece]):
    """A text under way: an iterator of pieces, which computes a token when it is asked for one.

    It ends at EOS, at a stop string (which is not part of the text), after the most tokens, or when the context is
    full. It may be left at any piece: the session then holds the prompt and all tokens but the last.

    Attributes:
        finish_reason: "eos", "stop", "length" or "context"; empty while it goes on, and when it was left.
        cached_tokens: tokens of the prompt that came from the prompt cache; known after the first piece.
    """

    def __init__(
        self,
        model: TextSource,
        session: TokenSession,
        prompt: str | Sequence[int],
        limits: Limits,
        sampling: Sampling,
        progress: Callable[[int, int], None] | None,
        prompt_cache: Path | None,
        reuse: bool = False,
        grammar: Grammar | None = None,
        pictures: Sequence[PictureRows] = (),
    ) -> None:
        """As `TextModel.generate`, which makes it."""
        self.finish_reason = ""
        self.cached_tokens = 0
        self._model, self._session = model, session
        self._limits, self._sampling = limits, sampling
        self._reuse, self._pictures = reuse, pictures
        self._matcher = None if grammar is None else self._constrain(grammar)
        self._pieces = self._run(prompt, progress, prompt_cache)

    def __next__(self) -> Piece:
        """The next piece.

        Raises:
            StopIteration: the text is at its end.
            EdgekitError: from the runtime.
        """
        return next(self._pieces)

    def close(self) -> None:
        """Ends it; the session stays as it is."""
        self._pieces.close()

    def _run(
        self, prompt: str | Sequence[int], progress: Callable[[int, int], None] | None, prompt_cache: Path | None
    ) -> Generator[Piece, None, None]:
        tokenizer = self._model.tokenizer
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise RuntimeFailure("the prompt is empty, and this tokenizer adds no BOS; give some text")
        saved = None if prompt_cache is None else self._cacheable()
        if self._reuse and isinstance(self._session, Session) and not self._scaled:
            self.cached_tokens = keep_shared(self._session, ids, self._pictures)
        else:
            self._session.reset()
        if saved is not None and prompt_cache is not None and prompt_cache.exists():
            self.cached_tokens = restore_shared(saved, ids, prompt_cache)
        for done in self._read_prompt(ids, self.cached_tokens):
            if progress is not None:
                progress(done, len(ids))
        if saved is not None and prompt_cache is not None:
            saved.save(prompt_cache)
        assembler = TextAssembler(tokenizer, ids, self._limits.stop)
        for token in self._tokens():
            text = assembler.push(token)
            if assembler.stopped:
                self.finish_reason = "stop"
            yield Piece(token, text)
            if assembler.stopped:
                return
        rest = assembler.rest()
        if rest:
            yield Piece(-1, rest)

    def _tokens(self) -> Iterator[int]:
        """Tokens until one is EOS, or there are enough, or the context is full; says which."""
        masked = nullcontext() if self._matcher is None else self._matcher.masking(self._native())
        with masked:
            yield from self._choose()

    def _choose(self) -> Iterator[int]:
        for _ in range(self._limits.max_tokens):
            try:
                token = self._session.next(self._sampling)
            except ContextFullError:
                self.finish_reason = "context"
                return
            if token in self._model.eos_token_ids and not self._limits.ignore_eos:
                self.finish_reason = "eos"
                return
            if self._matcher is not None and not self._matcher.accept(token):
                self.finish_reason = "eos"
                yield token
                return
            yield token
        self.finish_reason = "length"

    @property
    def _scaled(self) -> bool:
        """Whether keys depend on the length of the whole prompt."""
        return depends_on_length(self._model.manifest["model"])

    def _read_prompt(self, ids: Sequence[int], begin: int) -> Iterator[int]:
        """Evaluates a prompt from `begin` on, batch by batch, so that Ctrl-C is heard; yields the tokens done."""
        if self._pictures:
            yield from read_prompt(self._native(PICTURES), ids, self._pictures, begin, self._session.plan.max_batch)
            return
        rest = len(ids) - begin
        for end in [rest] if self._scaled else batches(rest, self._session.plan.max_batch):
            self._session.eval(ids[self._session.position : begin + end])
            yield begin + end

    def _constrain(self, grammar: Grammar) -> Matcher:
        self._native()
        return grammar.matcher()

    def _native(self, why: str = GRAMMARS) -> Session:
        """The session, if it is the runtime's own; else says `why` that is needed."""
        if not isinstance(self._session, Session):
            raise RuntimeFailure(why)
        return self._session

    def _cacheable(self) -> Session:
        """The session, if its state can be saved and cut anywhere."""
        if self._pictures:
            raise RuntimeFailure("a prompt cache keeps tokens and no pictures; leave one of them out")
        if not isinstance(self._session, Session):
            raise RuntimeFailure("a prompt cache needs the native backend; artifacts do not save their state")
        if self._scaled:
            raise RuntimeFailure("this model's keys depend on the length of the whole prompt, so no prompt cache fits")
        return self._session
