"""One round of work for several sessions of a model. The only place where the server computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.errors import EdgekitError
from edgekit.runtime.model import Model
from edgekit.runtime.pictures import PictureRows
from edgekit.runtime.session import Session
from edgekit.runtime.together import advance_together
from edgekit.runtime.values import Sampling
from edgekit.serve.errors import internal


@dataclass(frozen=True)
class Work:
    """What one session does in a round: evaluates a part of its prompt, or chooses a token.

    Attributes:
        session: which one; no session is in a round twice.
        tokens: of the prompt, to evaluate; empty to choose a token.
        sampling: how to choose it.
        rows: what stands for the tokens.
        look: encodes a tile of a picture, in place of all that.
    """

    session: Session
    tokens: Sequence[int] = ()
    sampling: Sampling | None = None
    rows: PictureRows | None = None
    look: Callable[[], None] | None = None


def step(round_: Sequence[Work]) -> list[int | EdgekitError]:
    """Does the work of a round; for each session the token that was chosen (-1 for prompts), or why it failed.

    The sessions of a model that choose a token share one pass over its weights.
    """
    failed = _advance([work.session for work in round_ if work.sampling is not None])
    return [failed.get(work.session) or _step_one(work) for work in round_]


def _advance(sessions: Sequence[Session]) -> dict[Session, EdgekitError]:
    """Takes the tokens that were chosen last into their texts; the sessions that failed, and why."""
    by_model: dict[Model, list[Session]] = {}
    for session in sessions:
        by_model.setdefault(session.model, []).append(session)
    failed: dict[Session, EdgekitError] = {}
    for together in by_model.values():
        try:
            errors = advance_together(together)
        except EdgekitError as error:
            errors = [error] * len(together)
        failed.update({s: e for s, e in zip(together, errors, strict=True) if e is not None})
    return failed


def _step_one(work: Work) -> int | EdgekitError:
    try:
        if work.sampling is not None:
            return work.session.next(work.sampling)
        if work.look is not None:
            work.look()
        elif work.rows is not None:
            work.session.eval_embeddings(work.rows.rows, work.tokens, work.rows.both_ways)
        else:
            work.session.eval(work.tokens)
        return -1
    except EdgekitError as error:
        return error
    except Exception as error:
        return internal(error)
