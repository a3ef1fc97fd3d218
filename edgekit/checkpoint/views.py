"""Tensors made of other tensors, read when asked for: rows in another order, two tensors in one, values shifted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.safetensors import Tensor, to_f32

Rows = npt.NDArray[np.generic]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces(Tensor):
    """A tensor that other tensors make up; `parts` are those."""

    parts: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Rotated(Pieces):
    """Rows of queries or keys in the order of transformers, of a part that has them in the order of llama.cpp.

    llama.cpp rotates neighbours, so its converter puts row j of a head's first half before row j of its second half.
    """

    heads: int = 1

    def read(self, begin: int = 0, end: int | None = None) -> Rows:
        """Rows [begin, end) in the stored dtype."""
        low, high, picked = self._picked(begin, end)
        return self.parts[0].read(low, high)[picked]

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of `codec`."""
        low, high, picked = self._picked(begin, end)
        return {name: values[picked] for name, values in self.parts[0].arrays(low, high).items()}

    def _picked(self, begin: int, end: int | None) -> tuple[int, int, Index]:
        """Rows of the part to read, and among them those that are rows [begin, end) here."""
        end = self.shape[0] if end is None else end
        dim = self.shape[0] // self.heads
        rows = np.arange(begin, end)
        head, half, j = rows // dim, rows % dim // (dim // 2), rows % (dim // 2)
        low, high = begin // dim * dim, -(-end // dim) * dim
        return low, high, head * dim + 2 * j + half - low


@dataclass(frozen=True)
class Interleaved(Pieces):
    """Rows of two parts by turns."""

    def item(self, index: int) -> Interleaved:
        """One of the tensors that this one stacks along its first axis."""
        return replace(self, shape=self.shape[1:], parts=tuple(p.item(index) for p in self.parts))

    def read(self, begin: int = 0, end: int | None = None) -> Rows:
        """Rows [begin, end), f32; of a stack, whole items."""
        end = self.shape[0] if end is None else end
        if len(self.shape) != len(self.parts[0].shape) or self.shape[0] == self.parts[0].shape[0]:
            return np.stack([self.item(i).read() for i in range(begin, end)])
        low, high = begin // 2, -(-end // 2)
        both = [to_f32(p.read(low, high), p.dtype) for p in self.parts]
        rows = np.stack(both, axis=1).reshape(2 * (high - low), *self.shape[1:])
        return rows[begin - 2 * low : end - 2 * low]


@dataclass(frozen=True)
class Shifted(Pieces):
    """The values of a part plus `add`."""

    add: float = 0.0

    def read(self, begin: int = 0, end: int | None = None) -> Rows:
        """Rows [begin, end), f32."""
        part = self.parts[0]
        values: npt.NDArray[np.float32] = to_f32(part.read(begin, end), part.dtype) + np.float32(self.add)
        return values


def rotated(part: Tensor, heads: int) -> Rotated:
    """`part` with its rows in the order of transformers."""
    return Rotated(part.name, part.path, part.dtype, part.shape, part.offset, (part,), heads)


def interleaved(name: str, first: Tensor, second: Tensor) -> Interleaved:
    """Tensors [items, rows, cols] (or vectors [items, rows]) as one of [items, 2 * rows, ...], f32."""
    shape = (first.shape[0], 2 * first.shape[1], *first.shape[2:])
    return Interleaved(name, first.path, "F32", shape, first.offset, (first, second))


def shifted(part: Tensor, add: float) -> Shifted:
    """`part` plus a number."""
    return Shifted(part.name, part.path, "F32", part.shape, part.offset, (part,), add)
