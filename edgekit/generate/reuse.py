"""What a session has of a prompt already is not evaluated again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import ContextFullError, RuntimeFailure
from edgekit.runtime.pictures import PictureRows
from edgekit.runtime.session import Session


def depends_on_length(model: dict[str, Any]) -> bool:
    """Whether keys depend on the length of the whole prompt, so that none can be kept for another; `model`: the
    manifest's."""
    return any("switch_length" in rope for rope in model["ropes"])


def keep_shared(session: Session, ids: Sequence[int], pictures: Sequence[PictureRows] = ()) -> int:
    """Rewinds a session to what its tokens and pictures share with a prompt, or resets it; returns how many tokens that
    leaves.

    One token of the prompt is always left to evaluate, as its logits are needed.
    """
    shared = shared_tokens(session.tokens, ids)
    had, wanted = set(session.given), {picture.given for picture in pictures}
    for given in had | wanted:  # a picture's tokens do not say which picture it is
        if given.begin < shared and (given.end > shared or given not in had & wanted):
            shared = given.begin
    try:
        session.rewind(shared)
    except RuntimeFailure:  # layers with a sliding window no longer hold what this prompt's tokens look at
        session.reset()
        return 0
    return shared


def shared_tokens(tokens: Sequence[int], ids: Sequence[int]) -> int:
    """Tokens that two texts begin with alike, but for the last one of `ids`."""
    most = min(len(tokens), len(ids) - 1)
    return next((i for i in range(most) if tokens[i] != ids[i]), most)


def restore_shared(session: Session, ids: Sequence[int], cache: Path) -> int:
    """Takes what a saved session has of a prompt's beginning; returns how many tokens that is."""
    try:
        session.restore(cache)
    except ContextFullError:  # a longer prompt was saved; this one's will take its place
        return 0
    return keep_shared(session, ids)


def batches(count: int, batch: int) -> Iterator[int]:
    """Ends of the batches of a prompt; the last is never a single token, which is the way of decoding."""
    ends = list(range(batch, count, batch))
    if ends and count - ends[-1] == 1 and batch > 2:
        ends[-1] -= 1
    yield from [*ends, count]


def read_prompt(
    session: Session, ids: Sequence[int], pictures: Sequence[PictureRows], begin: int, batch: int
) -> Iterator[int]:
    """Evaluates a prompt with pictures in it from `begin` on, where no picture is cut; yields the tokens done."""
    for picture in [p for p in pictures if p.begin >= begin]:
        yield from _read_tokens(session, ids, begin, picture.begin, batch)
        session.eval_embeddings(picture.rows, ids[picture.begin : picture.end], picture.both_ways)
        begin = picture.end
        yield begin
    yield from _read_tokens(session, ids, begin, len(ids), batch)


def _read_tokens(session: Session, ids: Sequence[int], begin: int, end: int, batch: int) -> Iterator[int]:
    for done in batches(end - begin, batch) if end > begin else ():
        session.eval(ids[session.position : begin + done])
        yield begin + done
