"""Tensors made of other tensors, read when asked for: rows in another order, two tensors in one, values shifted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.safetensors import Tensor, to_f32
from edgekit.codecs import Codec

Rows = npt.NDArray[np.generic]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pieces(Tensor):
    """A tensor that other tensors make up; `parts` are those."""

    parts: tuple[Tensor, ...] = ()

    @property
    def stored_as(self) -> str:
        """What the file calls the kind of its values."""
        return self.parts[0].stored_as

    @property
    def codec(self) -> Codec | None:
        """That of the parts, if they have the same."""
        codecs = [p.codec for p in self.parts]
        return codecs[0] if all(c == codecs[0] for c in codecs) else None

    @property
    def exact(self) -> bool:
        """Whether the weights of `codec` are equal to those that `read` gives."""
        return all(p.exact for p in self.parts)

    @property
    def shared(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays of `codec` that all rows share."""
        return self.parts[0].shared


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
        return _by_turns(both)[begin - 2 * low : end - 2 * low]

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of `codec`."""
        low, high = begin // 2, -(-end // 2)
        both = [p.arrays(low, high) for p in self.parts]
        return {name: _by_turns([b[name] for b in both])[begin - 2 * low : end - 2 * low] for name in both[0]}


def _by_turns(both: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.stack(both, axis=1).reshape(2 * len(both[0]), *both[0].shape[1:])


@dataclass(frozen=True)
class Shifted(Pieces):
    """The values of a part plus `add`."""

    add: float = 0.0

    @property
    def codec(self) -> None:
        """None: the sums are numbers of their own."""
        return None

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
