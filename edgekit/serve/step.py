"""One round of work for several sessions of a model. The only place where the server computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.errors import EdgekitError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Sampling
from edgekit.serve.errors import internal


@dataclass(frozen=True)
class Work:
    """What one session does in a round: evaluates a part of its prompt, or chooses a token.

    Attributes:
        session: which one; no session is in a round twice.
        tokens: of the prompt, to evaluate; empty to choose a token.
        sampling: how to choose it.
    """

    session: Session
    tokens: Sequence[int] = ()
    sampling: Sampling | None = None


def step(round_: Sequence[Work]) -> list[int | EdgekitError]:
    """Does the work of a round; for each session the token that was chosen (-1 for prompts), or why it failed.

    The sessions take turns here. One pass over the weights for all of them has the same arguments and results.
    """
    return [_step_one(work) for work in round_]


def _step_one(work: Work) -> int | EdgekitError:
    try:
        if work.sampling is not None:
            return work.session.next(work.sampling)
        work.session.eval(work.tokens)
        return -1
    except EdgekitError as error:
        return error
    except Exception as error:
        return internal(error)
