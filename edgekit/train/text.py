"""Training text: sequences of token ids, batches that a seed decides, and the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.generate.tokenizer import Tokenizer

SHORTEST = 8  # tokens of a text; those that have no more are left out


def sequences(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> list[Tensor]:
    """Token ids i64 of each text, at most `length`."""
    ids = (tokenizer.encode(t)[:length] for t in texts)
    return [torch.tensor(i) for i in ids if len(i) > SHORTEST]


def batches(data: Sequence[Tensor], steps: range, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(ids, mask) [size, longest] of these steps of a training; the same for the same seed."""
    for step in steps:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        picked = [data[i] for i in torch.randint(len(data), (size,), generator=rng).tolist()]
        yield _filled(picked)


def similar_batches(data: Sequence[Tensor], steps: range, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """As `batches`, of texts of similar length, so that little is filled up: neighbours when ordered by length."""
    ordered = sorted(data, key=len)
    starts = max(1, len(ordered) - size + 1)
    for step in steps:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        start = int(torch.randint(starts, (1,), generator=rng))
        yield _filled(ordered[start : start + size])


def _filled(picked: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    longest = max(len(p) for p in picked)
    ids = torch.stack([F.pad(p, (0, longest - len(p))) for p in picked])
    return ids, torch.stack([torch.arange(longest) < len(p) for p in picked])


def rate(peak: float, step: int, steps: int) -> float:
    """The learning rate: it warms up over a twentieth, then falls to zero like a cosine."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
