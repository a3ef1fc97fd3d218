"""Text from a bundle: `load` opens it, `TextModel.generate` streams."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.errors import ContextFullError, RuntimeFailure
from edgekit.generate.tokenizer import Stream, Tokenizer
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Plan, Sampling, Stats
from edgekit.verify import check_files

DEFAULT_TOKENS = 128


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


class TextModel:
    """An open bundle with its tokenizer, and a session that `generate` uses unless it is given another."""

    def __init__(self, path: str | Path, options: Options | None = None, session: TokenSession | None = None) -> None:
        """Opens a bundle; see `load`. `session`: of something else that computes the bundle's model."""
        self.path = Path(path)
        self.manifest = manifest.read(self.path).data
        check_files(self.path, self.manifest, "tokenizer/")  # small, and damage there is wrong text
        self.tokenizer = Tokenizer(self.path / "tokenizer")
        self.session: TokenSession = session or Session(self.path, options)
        self.eos_token_ids: tuple[int, ...] = tuple(self.manifest["model"].get("eos_token_ids", ()))

    def close(self) -> None:
        """Frees the memory."""
        self.session.close()

    def __enter__(self) -> TextModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def stats(self) -> Stats:
        """Counters of the runtime."""
        return self.session.stats

    @property
    def plan(self) -> Plan:
        """What is resident and what is streamed."""
        return self.session.plan

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits of each position of a text, f32 [len(token_ids), vocab_size]; begins afresh."""
        self.session.reset()
        return self.session.logits(token_ids)

    def create_session(self) -> Session:
        """Another session on the same weights, for a generation beside others: one session, one thread. `load` with
        `sessions` makes room for it under a budget.

        Raises:
            BudgetError: no room.
            RuntimeFailure: an artifact, which has one session.
        """
        if not isinstance(self.session, Session):
            raise RuntimeFailure("an artifact has one session; use the native backend for several")
        return self.session.model.create_session()

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = DEFAULT_TOKENS,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        progress: Callable[[int, int], None] | None = None,
        prompt_cache: str | Path | None = None,
        session: TokenSession | None = None,
    ) -> Generation:
        """Continues a prompt, token by token; begins afresh.

        Args:
            prompt: text, or token ids that are taken as they are.
            max_tokens: most tokens to generate.
            sampling: how to choose; llama.cpp's defaults if not given.
            stop: strings that end the text.
            ignore_eos: go on after EOS.
            progress: called with (tokens read, of the prompt's) while the prompt is evaluated.
            prompt_cache: file of a saved session: what it shares with the prompt is not evaluated again, and the
                prompt is saved there. Not for artifacts, nor models whose rotary frequencies change with the length.
            session: from `create_session`; the model's own if not given. Its tokens are forgotten.

        Returns:
            The pieces, made as they are asked for.
        """
        return Generation(
            self,
            self.session if session is None else session,
            prompt,
            Limits(max_tokens, tuple(s for s in stop if s), ignore_eos),
            sampling or Sampling(),
            progress,
            None if prompt_cache is None else Path(prompt_cache),
        )


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
        model: TextModel,
        session: TokenSession,
        prompt: str | Sequence[int],
        limits: Limits,
        sampling: Sampling,
        progress: Callable[[int, int], None] | None,
        prompt_cache: Path | None,
    ) -> None:
        """As `TextModel.generate`, which makes it."""
        self.finish_reason = ""
        self.cached_tokens = 0
        self._model, self._session = model, session
        self._limits, self._sampling = limits, sampling
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
        self._session.reset()
        if saved is not None and prompt_cache is not None and prompt_cache.exists():
            self.cached_tokens = _restored(saved, ids, prompt_cache)
        for done in self._read_prompt(ids, self.cached_tokens):
            if progress is not None:
                progress(done, len(ids))
        if saved is not None and prompt_cache is not None:
            saved.save(prompt_cache)
        stream, held = Stream(tokenizer, ids), _Held(self._limits.stop)
        for token in self._tokens():
            text = held.push(stream.push(token))
            if held.stopped:
                self.finish_reason = "stop"
            yield Piece(token, text)
            if held.stopped:
                return
        rest = held.rest()
        if rest:
            yield Piece(-1, rest)

    def _tokens(self) -> Iterator[int]:
        """Tokens until one is EOS, or there are enough, or the context is full; says which."""
        for _ in range(self._limits.max_tokens):
            try:
                token = self._session.next(self._sampling)
            except ContextFullError:
                self.finish_reason = "context"
                return
            if token in self._model.eos_token_ids and not self._limits.ignore_eos:
                self.finish_reason = "eos"
                return
            yield token
        self.finish_reason = "length"

    @property
    def _scaled(self) -> bool:
        """Whether keys depend on the length of the whole prompt."""
        return any("switch_length" in rope for rope in self._model.manifest["model"]["ropes"])

    def _read_prompt(self, ids: Sequence[int], begin: int) -> Iterator[int]:
        """Evaluates a prompt from `begin` on, batch by batch, so that Ctrl-C is heard; yields the tokens done."""
        rest = len(ids) - begin
        for end in [rest] if self._scaled else _batches(rest, self._session.plan.max_batch):
            self._session.eval(ids[self._session.position : begin + end])
            yield begin + end

    def _cacheable(self) -> Session:
        """The session, if its state can be saved and cut anywhere."""
        if not isinstance(self._session, Session):
            raise RuntimeFailure("a prompt cache needs the native backend; artifacts do not save their state")
        if self._scaled:
            raise RuntimeFailure("this model's keys depend on the length of the whole prompt, so no prompt cache fits")
        return self._session


def _restored(session: Session, ids: Sequence[int], cache: Path) -> int:
    """Takes what a saved session has of a prompt's beginning; returns how many tokens that is."""
    try:
        session.restore(cache)
    except ContextFullError:  # a longer prompt was saved; this one's will take its place
        return 0
    same = next((i for i, (a, b) in enumerate(zip(ids, session.tokens, strict=False)) if a != b), None)
    kept = min(session.position if same is None else same, len(ids) - 1)  # the last one's logits are needed
    try:
        session.rewind(kept)
    except RuntimeFailure:  # layers with a sliding window no longer hold what this prompt's tokens look at
        session.reset()
        return 0
    return kept


def _batches(count: int, batch: int) -> list[int]:
    """Ends of the batches of a prompt; the last is never a single token, which is the way of decoding."""
    ends = list(range(batch, count, batch))
    if ends and count - ends[-1] == 1 and batch > 2:
        ends[-1] -= 1
    return [*ends, count]


class _Held:
    """Text that may be the beginning of a stop string is held back until that is decided."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._text = ""
        self.stopped = False

    def push(self, text: str) -> str:
        self._text += text
        found = [at for s in self._stop if (at := self._text.find(s)) >= 0]
        if found:
            self.stopped = True
            return self._text[: min(found)]
        keep = max((n for s in self._stop for n in range(1, len(s)) if self._text.endswith(s[:n])), default=0)
        out, self._text = self._text[: len(self._text) - keep], self._text[len(self._text) - keep :]
        return out

    def rest(self) -> str:
        out, self._text = self._text, ""
        return out


def load(
    path: str | Path,
    ram: str | int | None = None,
    *,
    context: int = 0,
    threads: int = 0,
    batch: int = 0,
    io: str = "auto",
    cache_type: str = "f16",
    kernels: str | None = None,
    draft_tokens: int = 0,
    sessions: int = 1,
) -> TextModel:
    """Opens a bundle.

    Args:
        path: the `.edgekit` folder.
        ram: hard budget for everything the runtime allocates ("400M", bytes); None for no limit.
        context: most tokens of prompt and text together; 0 for the model's, at most 2048.
        threads: compute threads; 0 for one per core.
        batch: tokens per prefill pass; 0 for 128, fewer under a tight budget.
        io: "direct" bypasses the page cache, "buffered" does not, "auto" tries direct first.
        cache_type: "f16" or "f32" keys and values.
        kernels: name of a kernel set; the best of this CPU if None.
        draft_tokens: most tokens drafted from the text so far for one pass; with a draft model, see
            edgekit.generate.speculate.
        sessions: sessions that the budget leaves room for (`TextModel.create_session`).

    Raises:
        BudgetError: the budget is below the model's floor, which the message names.
        BundleError: not a bundle, or damaged.
    """
    options = Options(
        ram=ram,
        context=context,
        threads=threads,
        batch=batch,
        sessions=sessions,
        io=io,
        cache_type=cache_type,
        kernels=kernels,
        draft_tokens=draft_tokens,
    )
    return TextModel(path, options)
