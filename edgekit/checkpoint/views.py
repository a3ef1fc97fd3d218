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


@dataclass(frozen=True, eq=False)
class Gathered(Pieces):
    """Row i is row order[i] of the parts, one after the other; column j is column columns[j].

    Attributes:
        order: None for the parts' own order.
        columns: likewise; `run` of them stay side by side.
        axis: there is an axis of one before the last.
    """

    order: Index | None = None
    columns: Index | None = None
    run: int = 1
    axis: bool = False

    @property
    def codec(self) -> Codec | None:
        """That of the parts, if they have the same and whole groups of its columns stay together."""
        codec = super().codec
        if codec is None or self.columns is None or codec.form == "dense":
            return codec
        group = getattr(codec, "group_size", 0)
        return codec if group and self.run % group == 0 else None

    def read(self, begin: int = 0, end: int | None = None) -> Rows:
        """Rows [begin, end), f32."""
        pieces = [to_f32(part.read(low, high), part.dtype) for part, low, high in self._spans(begin, end)]
        rows = np.concatenate(pieces)[self._places(begin, end)]
        rows = rows if self.columns is None else rows[:, self.columns]
        out: Rows = rows.reshape(-1, *self.shape[1:])
        return out

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of `codec`."""
        pieces = [part.arrays(low, high) for part, low, high in self._spans(begin, end)]
        places = self._places(begin, end)
        joined = {name: np.concatenate([p[name] for p in pieces])[places] for name in pieces[0]}
        if self.columns is None:
            return joined
        width = len(self.columns)
        steps = {name: width // values.shape[1] for name, values in joined.items()}  # columns of one element
        return {name: values[:, self.columns[:: steps[name]] // steps[name]] for name, values in joined.items()}

    def _wanted(self, begin: int, end: int | None) -> Index:
        end = self.shape[0] if end is None else end
        return np.arange(begin, end) if self.order is None else self.order[begin:end]

    def _spans(self, begin: int, end: int | None) -> list[tuple[Tensor, int, int]]:
        """Runs of rows of the parts, in order, that have all that is wanted."""
        rows = np.unique(self._wanted(begin, end))
        starts = np.cumsum([0, *(p.shape[0] for p in self.parts)])
        spans = []
        for part, first, last in zip(self.parts, starts[:-1], starts[1:], strict=True):
            mine = rows[(rows >= first) & (rows < last)] - first
            for run in np.split(mine, np.flatnonzero(np.diff(mine) != 1) + 1):
                if len(run):
                    spans.append((part, int(run[0]), int(run[-1]) + 1))
        return spans or [(self.parts[0], 0, 0)]

    def _places(self, begin: int, end: int | None) -> Index:
        """Where wanted rows are among those of `_spans`, which are the sorted ones."""
        places: Index = np.unique(self._wanted(begin, end), return_inverse=True)[1]
        return places


@dataclass(frozen=True)
class Logged(Shifted):
    """The logarithm of what is left of zero in a part."""

    def read(self, begin: int = 0, end: int | None = None) -> Rows:
        """Rows [begin, end), f32."""
        part = self.parts[0]
        with np.errstate(all="ignore"):  # what is not finite is told by those who use the values
            values: npt.NDArray[np.float32] = np.log(-to_f32(part.read(begin, end), part.dtype))
        return values


def gathered(
    name: str,
    parts: tuple[Tensor, ...],
    order: Index | None,
    *,
    columns: Index | None = None,
    run: int = 1,
    axis: bool = False,
) -> Gathered:
    """Rows of parts (and columns) in another order; `axis` puts an axis of one before the last."""
    first = parts[0]
    rows = sum(p.shape[0] for p in parts) if order is None else len(order)
    shape = (rows, *((1,) if axis else ()), *first.shape[1:])
    return Gathered(name, first.path, "F32", shape, first.offset, parts, order, columns, run, axis)


def logged(part: Tensor) -> Logged:
    """log(-part)."""
    return Logged(part.name, part.path, "F32", part.shape, part.offset, (part,))
