"""Texts of similar length side by side, filled up on the right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Some texts.

    Attributes:
        ids: token ids i64 [texts, length].
        mask: bool [texts, length], false where texts were filled up.
        begins: where the tokens of each text lie in an array of all texts' tokens.
    """

    ids: Tensor
    mask: Tensor
    begins: tuple[int, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [int(n) for n in self.mask.sum(dim=1)]

    def padded(self, states: F32) -> Tensor:
        """The texts' rows of an array [all tokens, n], f32 [texts, length, n]; zeros where texts were filled up."""
        out = torch.zeros(*self.ids.shape, states.shape[1])
        for i, (begin, length) in enumerate(zip(self.begins, self.lengths, strict=True)):
            out[i, :length] = torch.tensor(states[begin : begin + length])
        return out

    def put(self, states: F32, values: Tensor) -> None:
        """The inverse of `padded`."""
        for i, (begin, length) in enumerate(zip(self.begins, self.lengths, strict=True)):
            states[begin : begin + length] = values[i, :length].detach().numpy()


def batched(runs: Sequence[Sequence[int]], tokens: int) -> Iterator[Batch]:
    """All texts, shortest first, in batches of at most so many tokens, filling included, or of one text."""
    begins = np.cumsum([0, *(len(r) for r in runs)]).tolist()
    some: list[int] = []
    for i in sorted(range(len(runs)), key=lambda i: len(runs[i])):
        if some and (len(some) + 1) * len(runs[i]) > tokens:
            yield _batch([runs[k] for k in some], tuple(begins[k] for k in some))
            some = []
        some.append(i)
    yield _batch([runs[k] for k in some], tuple(begins[k] for k in some))


def _batch(runs: Sequence[Sequence[int]], begins: tuple[int, ...]) -> Batch:
    longest = max(len(r) for r in runs)
    ids = torch.tensor([[*r, *(0 for _ in range(longest - len(r)))] for r in runs])
    mask = torch.tensor([[k < len(r) for k in range(longest)] for r in runs])
    return Batch(ids, mask, begins)
