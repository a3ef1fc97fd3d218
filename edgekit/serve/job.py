"""One text to generate, and what happens to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edgekit.errors import EdgekitError
from edgekit.generate.grammar import Grammar
from edgekit.runtime.pictures import PictureRows
from edgekit.runtime.values import Sampling


@dataclass(frozen=True)
class Job:
    """One text to generate.

    Attributes:
        model: id of the bundle.
        ids: tokens of the prompt.
        max_tokens: most tokens to generate.
        sampling: how to choose them.
        stop: strings that end the text.
        grammar: what the text must be; None for any.
        top_logprobs: most probable tokens to report with each; None: no logarithms of probabilities at all.
        ignore_eos: go on after the end-of-text token.
        pictures: contents of files.
        places: where their tiles are in the prompt; the rows are not known yet.
    """

    model: str
    ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    top_logprobs: int | None = None
    ignore_eos: bool = False
    pictures: tuple[bytes, ...] = ()
    places: tuple[PictureRows, ...] = ()


@dataclass(frozen=True)
class TokenLogprobs:
    """Logarithms of probabilities where a token was chosen: its own, and (token, logarithm) of the best."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Started:
    """A job got a session; that many tokens of its prompt were there already."""

    cached_tokens: int


@dataclass(frozen=True)
class Token:
    """A token was chosen; `text` is what it completed. A token of -1 is text that was held back."""

    token: int
    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True)
class Finished:
    """The text is at its end: "stop", "length"."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """There will be no more text."""

    error: EdgekitError


Event = Started | Token | Finished | Failed


@dataclass(eq=False)
class Ticket:
    """A job in the scheduler's hands.

    Attributes:
        job: what to do.
        emit: called on the scheduler's thread with what happens; must return at once.
        deadline: `time.monotonic()` after which the job is given up.
        cancelled: set from any thread when nobody waits for the text any more.
    """

    job: Job
    emit: Callable[[Event], None]
    deadline: float
    cancelled: bool = field(default=False)

    def cancel(self) -> None:
        """Nobody waits for it any more: its session is free after the pass that is under way."""
        self.cancelled = True
