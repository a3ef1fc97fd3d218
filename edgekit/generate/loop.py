"""Text from a bundle: `load` opens it, `Model.generate` streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.errors import ContextFullError, RuntimeFailure
from edgekit.generate.tokenizer import Stream, Tokenizer
from edgekit.runtime.session import Options, Plan, Sampling, Session, Stats
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
    def sample(self, sampling: Sampling) -> int: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...
    @property
    def position(self) -> int: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def stats(self) -> Stats: ...

    kernels: str
    threads: int


class Model:
    """An open bundle with its tokenizer."""

    def __init__(self, path: str | Path, options: Options | None = None, session: TokenSession | None = None) -> None:
        """Opens a bundle; see `load`. `session`: of something else that computes the bundle's model."""
        self.path = Path(path)
        self.manifest = manifest.read(self.path).data
        check_files(self.path, self.manifest, "tokenizer/")  # small, and damage there is wrong text
        self.tokenizer = Tokenizer(self.path / "tokenizer")
        self.session: TokenSession = session or Session(self.path, options)
        self.eos_token_ids: tuple[int, ...] = tuple(self.manifest["model"].get("eos_token_ids", ()))
        self.finish_reason = ""
        self.cached_tokens = 0  # of the last prompt

    def close(self) -> None:
        """Frees the memory."""
        self.session.close()

    def __enter__(self) -> Model:
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

    @property
    def _scaled(self) -> bool:
        """Whether keys depend on the length of the whole prompt."""
        return any("switch_length" in rope for rope in self.manifest["model"]["ropes"])

    def _read_prompt(self, ids: Sequence[int], begin: int) -> Iterator[int]:
        """Evaluates a prompt from `begin` on, batch by batch, so that Ctrl-C is heard; yields the tokens done."""
        rest = len(ids) - begin
        for end in [rest] if self._scaled else _pieces(rest, self.plan.max_batch):
            self.session.eval(ids[self.session.position : begin + end])
            yield begin + end

    def _cacheable(self) -> Session:
        """The session, if its state can be saved and cut anywhere."""
        if not isinstance(self.session, Session):
            raise RuntimeFailure("a prompt cache needs the native backend; artifacts do not save their state")
        if self._scaled:
            raise RuntimeFailure("this model's keys depend on the length of the whole prompt, so no prompt cache fits")
        return self.session

    def _restored(self, session: Session, ids: Sequence[int], cache: Path) -> int:
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

    def _sampled(self, how: Sampling) -> Iterator[int]:
        """Tokens that follow what was evaluated, until the context is full. Asking for one more appends the last."""
        session, context = self.session, self.plan.context
        token = session.sample(how)
        yield token
        while session.position < context:
            if isinstance(session, Session) and session.draft_tokens > 0:
                guesses = session.guess(token)
                kept, token = session.verify([token, *guesses], how)
                yield from guesses[: kept - 1]
            else:
                session.eval([token])
                token = session.sample(how)
            yield token

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = DEFAULT_TOKENS,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        progress: Callable[[int, int], None] | None = None,
        prompt_cache: str | Path | None = None,
    ) -> Iterator[Piece]:
        """Continues a prompt, token by token; begins afresh.

        Ends at EOS, at a stop string (which is not part of the text), after `max_tokens`, or when
        the context is full; `finish_reason` then says "eos", "stop", "length" or "context". Closing
        the iterator stops at once.

        Args:
            prompt: text, or token ids that are taken as they are.
            max_tokens: most tokens to generate.
            sampling: how to choose; llama.cpp's defaults if not given.
            stop: strings that end the text.
            ignore_eos: go on after EOS.
            progress: called with (tokens read, of the prompt's) while the prompt is evaluated.
            prompt_cache: file of a saved session: what it shares with the prompt is not evaluated again, and the
                prompt is saved there. Not for artifacts, nor models whose rotary frequencies change with the length.

        Raises:
            EdgekitError: from the runtime.
        """
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise RuntimeFailure("the prompt is empty, and this tokenizer adds no BOS; give some text")
        how = sampling or Sampling()
        self.finish_reason = ""
        saved = None if prompt_cache is None else (self._cacheable(), Path(prompt_cache))
        self.session.reset()
        self.cached_tokens = self._restored(saved[0], ids, saved[1]) if saved and saved[1].exists() else 0
        for done in self._read_prompt(ids, self.cached_tokens):
            if progress is not None:
                progress(done, len(ids))
        if saved is not None:
            saved[0].save(saved[1])
        stream, held = Stream(self.tokenizer, ids), _Held(stop)
        count = 0
        for count, token in enumerate(islice(self._sampled(how), max_tokens), 1):  # noqa: B007 - used below
            if token in self.eos_token_ids and not ignore_eos:
                self.finish_reason = "eos"
                break
            text = held.push(stream.push(token))
            if held.stopped:
                self.finish_reason = "stop"
                yield Piece(token, text)
                return
            yield Piece(token, text)
        else:
            self.finish_reason = "length" if count == max_tokens else "context"
        rest = held.rest()
        if rest:
            yield Piece(-1, rest)


def _pieces(count: int, batch: int) -> list[int]:
    """Ends of the pieces of a prompt; the last is never a single token, which is the way of decoding."""
    ends = list(range(batch, count, batch))
    if ends and count - ends[-1] == 1 and batch > 2:
        ends[-1] -= 1
    return [*ends, count]


class _Held:
    """Text that may be the beginning of a stop string is held back until that is decided."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [s for s in stop if s]
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
) -> Model:
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
        draft_tokens: most tokens guessed from the text so far and checked in one pass; with a draft model, see
            edgekit.speculate.

    Raises:
        BudgetError: the budget is below the model's floor, which the message names.
        BundleError: not a bundle, or damaged.
    """
    return Model(path, Options(ram, context, threads, batch, 1, io, cache_type, 0, kernels, draft=draft_tokens))
