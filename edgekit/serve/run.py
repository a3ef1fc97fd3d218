"""A job that has a session: its prompt, then its tokens, until it ends."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgekit.errors import BundleError, ContextFullError, EdgekitError, RuntimeFailure
from edgekit.generate.reuse import keep_shared
from edgekit.generate.text import TextAssembler
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.pictures import PictureRows
from edgekit.runtime.session import Session
from edgekit.serve.errors import ApiError, bad, internal
from edgekit.serve.job import Failed, Finished, Started, Ticket, Token, TokenLogprobs
from edgekit.serve.step import Work

F32 = npt.NDArray[np.float32]
CHUNK = 64  # most tokens of a prompt in one round, so that others do not wait long


class Run:
    """The state of a job between rounds.

    Attributes:
        ticket: the job.
        session: what it computes with.
        ended: whether there is nothing left to do.
        generated: tokens chosen so far.
        begun: `time.monotonic()` when it got its session.
    """

    def __init__(
        self,
        ticket: Ticket,
        session: Session,
        tokenizer: Tokenizer,
        eos: tuple[int, ...],
        whole_prompt: bool,
        tiles: Generator[F32, None, None] | None = None,
    ) -> None:
        """Takes what the session has of the prompt.

        Args:
            ticket: the job.
            session: from now on its own.
            tokenizer: of the model.
            eos: tokens that end a text.
            whole_prompt: keys depend on the length of the prompt, so that it is evaluated at once and nothing is kept.
            tiles: rows of the tiles of its pictures, as they are encoded.
        """
        self.ticket, self.session, self._eos = ticket, session, eos
        self.ended, self.generated, self.begun = False, 0, time.monotonic()
        job = ticket.job
        self.cached, self._whole = 0, whole_prompt
        self._tiles, self._rows = tiles, list[F32]()
        self._pictures: tuple[PictureRows, ...] = ()
        self._chunk = len(job.ids) if whole_prompt else min(CHUNK, session.plan.max_batch)
        self._text = TextAssembler(tokenizer, job.ids, job.stop)
        self._masking = ExitStack()
        self._matcher = None
        if job.grammar is not None:
            self._matcher = job.grammar.matcher()
            self._masking.enter_context(self._matcher.masking(session))
        if tiles is None:
            self._begin()

    def _begin(self) -> None:
        """Takes what the session has of the prompt."""
        if self._whole:
            self.session.reset()
        else:
            self.cached = keep_shared(self.session, self.ticket.job.ids, self._pictures)
        self.ticket.emit(Started(self.cached))

    def _look(self) -> None:
        """Encodes a tile; behind the last one the prompt begins."""
        assert self._tiles is not None
        try:
            self._rows.append(next(self._tiles))
            return
        except StopIteration:
            pass
        except (RuntimeFailure, BundleError) as error:  # a file whose beginning is a picture's and the rest is not
            raise bad(str(error), "messages") from error
        job = self.ticket.job
        self._tiles = None
        self._pictures = tuple(replace(p, rows=rows) for p, rows in zip(job.places, self._rows, strict=True))
        self._begin()

    @property
    def reading(self) -> bool:
        """Whether a part of the prompt is left to evaluate."""
        if self._tiles is not None:
            return True
        return self.session.position < len(self.ticket.job.ids) and self.generated == 0

    def work(self) -> Work:
        """What is to be done in the next round."""
        job = self.ticket.job
        if not self.reading:
            return Work(self.session, sampling=job.sampling)
        if self._tiles is not None:
            return Work(self.session, look=self._look)
        begin = self.session.position
        ahead = next((p for p in self._pictures if p.begin >= begin), None)
        if ahead is not None and ahead.begin == begin:
            return Work(self.session, job.ids[begin : ahead.end], rows=ahead)
        if ahead is not None:
            return Work(self.session, job.ids[begin : min(begin + self._chunk, ahead.begin)])
        end = min(begin + self._chunk, len(job.ids))
        if len(job.ids) - end == 1 and end - begin > 2:
            end -= 1  # a single token is the way of decoding
        return Work(self.session, job.ids[begin:end])

    def take(self, outcome: int | EdgekitError) -> None:
        """Goes on with what a round gave."""
        if isinstance(outcome, ContextFullError):
            self._finish("length")
        elif isinstance(outcome, EdgekitError):
            self.fail(outcome)
        elif outcome >= 0:
            try:
                self._take_token(outcome)
            except EdgekitError as error:
                self.fail(error)
            except Exception as error:
                self.fail(internal(error))

    def _take_token(self, token: int) -> None:
        job = self.ticket.job
        self.generated += 1
        if token in self._eos and not job.ignore_eos:
            self._finish("stop")
            return
        found = None
        if job.top_logprobs is not None:
            logprob, top = self.session.logprobs(job.top_logprobs)
            found = TokenLogprobs(token, logprob, tuple(top))
        self.ticket.emit(Token(token, self._text.push(token), found))
        complete = self._matcher is not None and not self._matcher.accept(token)
        if self._text.stopped or complete:
            self._finish("stop")
        elif self.generated >= job.max_tokens:
            self._finish("length")

    def _finish(self, reason: str) -> None:
        rest = "" if self._text.stopped else self._text.rest()
        if rest:
            self.ticket.emit(Token(-1, rest))
        self.ticket.emit(Finished(reason))
        self.end()

    def fail(self, error: EdgekitError) -> None:
        """Ends it with an error."""
        self.ticket.emit(Failed(error))
        self.end()

    def end(self) -> None:
        """Gives the session back; it keeps its tokens for the next prompt that begins alike."""
        self.ended = True
        self._masking.close()
        if self._tiles is not None:
            self._tiles.close()

    def give_up(self) -> None:
        """Ends it if nobody waits for it, or its time is over."""
        if self.ticket.cancelled:
            self.fail(RuntimeFailure("the request was cancelled"))
        elif time.monotonic() > self.ticket.deadline:
            self.fail(ApiError(504, "the request took longer than the server's time limit", "timeout"))
