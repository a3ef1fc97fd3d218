"""How far a model is from another one on text: perplexity, and the divergence of their distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit.generate.loop import TokenSession

F64 = npt.NDArray[np.float64]
STEP = 64  # tokens whose distributions are held at a time
TOP = 5


@dataclass(frozen=True)
class Comparison:
    """Over all predicted tokens of all texts.

    Attributes:
        tokens: how many were predicted.
        perplexity: of the model.
        bits_per_byte: of the texts that were predicted; NaN where their bytes are not known.
        against_perplexity: of the model that it is compared with; None without one, as all below.
        kl: mean KL divergence of the model's distributions from the other's, nats per token.
        kl_99: 99% of tokens have at most this.
        kl_max: the largest.
        top1: share of tokens where both prefer the same.
        top5: mean share of the other's five likeliest tokens that are among the model's five.
    """

    tokens: int
    perplexity: float
    bits_per_byte: float
    against_perplexity: float | None = None
    kl: float | None = None
    kl_99: float | None = None
    kl_max: float | None = None
    top1: float | None = None
    top5: float | None = None


def log_softmax(logits: npt.NDArray[np.float32]) -> F64:
    """Logarithms of probabilities [..., n] of logits [..., n]."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    out: F64 = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return out


def compare(
    session: TokenSession,
    against: TokenSession | None,
    runs: Iterable[Sequence[int]],
    total: int,
    size: Callable[[Sequence[int]], int],
    progress: Callable[[int, int], None],
) -> Comparison:
    """Reads each run of token ids with both models, at most their context of it.

    Args:
        session: of the model.
        against: of the model it is compared with; None for none.
        runs: token ids of the texts, each read on its own.
        total: tokens of all runs, for the progress.
        size: bytes that token ids stand for.
        progress: called with (tokens read, of all).
    """
    most = min(s.plan.context for s in (session, against) if s is not None)
    tally = _Tally()
    read = 0
    for ids in runs:
        read += len(ids)
        ids = list(ids)[:most]
        if len(ids) < 2:
            continue
        for s in (session, against):
            if s is not None:
                s.reset()
        tally.size += size(ids[1:])
        for begin in range(0, len(ids) - 1, STEP):
            step = ids[begin : begin + STEP]
            targets = ids[begin + 1 : begin + 1 + len(step)]
            got = log_softmax(session.logits(step))[: len(targets)]
            want = None if against is None else log_softmax(against.logits(step))[: len(targets)]
            tally.add(got, want, targets)
        progress(min(read, total), total)
    return tally.result()


class _Tally:
    """Sums over tokens."""

    def __init__(self) -> None:
        self.count = self.size = self.same = 0
        self.nats = self.other = self.shared = 0.0
        self.kl: list[F64] = []

    def add(self, got: F64, want: F64 | None, targets: Sequence[int]) -> None:
        """Counts tokens: log probabilities [tokens, vocabulary] of both models, and what followed."""
        at = np.arange(len(targets)), np.asarray(targets)
        self.count += len(targets)
        self.nats -= float(got[at].sum())
        if want is None:
            return
        self.other -= float(want[at].sum())
        self.kl.append((np.exp(want) * (want - got)).sum(axis=1))
        self.same += int((want.argmax(axis=1) == got.argmax(axis=1)).sum())
        best, found = (np.argpartition(-a, TOP - 1, axis=1)[:, :TOP] if a.shape[1] > TOP else a for a in (want, got))
        self.shared += float((best[:, :, None] == found[:, None, :]).any(axis=2).mean(axis=1).sum())

    def result(self) -> Comparison:
        """Means over all tokens."""
        n = max(1, self.count)
        bits = self.nats / math.log(2) / self.size if self.size else math.nan
        if not self.kl:
            return Comparison(self.count, math.exp(self.nats / n), bits)
        kl = np.concatenate(self.kl)
        return Comparison(
            self.count, math.exp(self.nats / n), bits, math.exp(self.other / n), float(kl.mean()),
            float(np.quantile(kl, 0.99)), float(kl.max()), self.same / n, self.shared / n,
        )  # fmt: skip
