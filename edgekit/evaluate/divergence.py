"""What a selection costs in quality: its distributions against those of the dense model.

Texts are fed token by token, as decoding does, since selections act on single tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.evaluate.comparison import log_softmax
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

PROMPT = 16  # tokens of each text that are read at once, as a prompt would be


@dataclass(frozen=True)
class Divergence:
    """Over all tokens after the prompts.

    Attributes:
        kl: mean KL divergence of the selection's distributions from the dense ones, nats per token.
        top1: share of tokens where both prefer the same.
        perplexity: of the texts with the selection.
        dense_perplexity: of the texts without.
        tokens: how many were compared.
    """

    kl: float
    top1: float
    perplexity: float
    dense_perplexity: float
    tokens: int


def divergence(bundle: Path, options: Options, runs: Iterable[list[int]]) -> Divergence:
    """Compares a selection with `all` on token runs.

    Raises:
        EdgekitError: the bundle cannot be opened that way.
    """
    kl = same = nats = dense_nats = 0.0
    count = 0
    with Session(bundle, options) as chosen, Session(bundle, replace(options, select="all", ram=None)) as dense:
        for ids in runs:
            ids = ids[: chosen.plan.context]
            if len(ids) < PROMPT + 2:
                continue
            dense.reset()
            chosen.reset()
            want = log_softmax(dense.logits(ids))[PROMPT:-1]
            chosen.eval(ids[:PROMPT])
            got = log_softmax(np.concatenate([chosen.logits([t]) for t in ids[PROMPT:-1]]))
            kl += float((np.exp(want) * (want - got)).sum())
            same += float((want.argmax(axis=1) == got.argmax(axis=1)).sum())
            at = np.arange(len(got)), np.asarray(ids[PROMPT + 1 :])
            nats -= float(got[at].sum())
            dense_nats -= float(want[at].sum())
            count += len(got)
    count = max(1, count)
    return Divergence(kl / count, same / count, math.exp(nats / count), math.exp(dense_nats / count), count)
