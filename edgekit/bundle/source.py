"""Rows of a checkpoint's matrices as f32, a few at a time, whichever way they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.arch.spec import Matrix, Vector
from edgekit.checkpoint import Checkpoint, to_f32
from edgekit.errors import CheckpointError

F32 = npt.NDArray[np.float32]
Order = npt.NDArray[np.int64]
FEW = 4  # times as many rows are read as are wanted, before all are read once


class RowSource:
    """Reads rows of a matrix, or its columns as rows.

    Stored rows are read as they are asked for. Columns of a stored tensor, or rows in another `order`,
    need all of it: it is read once, in the stored dtype, and kept until `close`.
    """

    def __init__(
        self, checkpoint: Checkpoint, matrix: Matrix, by_column: bool, order: str | Order | None = None
    ) -> None:
        stored = checkpoint.tensor(matrix.tensor)
        self.tensor = stored if matrix.index is None else stored.item(matrix.index)
        self.order = read_order(checkpoint, order) if isinstance(order, str) else order
        self.ranges, self.step = matrix.ranges or ((0, matrix.rows),), matrix.step
        self.sideways = matrix.transposed != by_column
        if by_column:  # columns are inputs: all of them, whatever rows of a fused tensor are meant
            self.rows_in_ranges, self.ranges, self.step = self.ranges, ((0, matrix.cols),), 1
        else:
            self.rows_in_ranges = ((0, matrix.cols),)
        self.whole: npt.NDArray[np.generic] | None = None
        self.kept: dict[str, npt.NDArray[Any]] | None = None

    def rows(self, begin: int, end: int) -> F32:
        """Rows [begin, end) as f32 [end - begin, cols].

        Raises:
            CheckpointError: unreadable, or not all values are finite.
        """
        out = self._picked(self.order[begin:end]) if self.order is not None else self._consecutive(begin, end)
        if not np.isfinite(out).all():
            raise CheckpointError(f"{self.tensor.path}: tensor '{self.tensor.name}' holds NaN or infinity")
        return np.ascontiguousarray(out, dtype=np.float32)

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of the tensor's own codec."""
        assert not self.sideways
        index = np.concatenate([np.arange(low, high, self.step) for low, high in self.ranges])
        picked = index[begin:end] if self.order is None else index[self.order[begin:end]]
        low, high = int(picked.min()), int(picked.max()) + 1
        if high - low <= FEW * len(picked):
            return {name: values[picked - low] for name, values in self.tensor.arrays(low, high).items()}
        if self.kept is None:
            self.kept = self.tensor.arrays(0, self.tensor.shape[0])
        return {name: values[picked] for name, values in self.kept.items()}

    def _consecutive(self, begin: int, end: int) -> F32:
        pieces, at = [], 0
        for low, high in self.ranges:
            count = -(-(high - low) // self.step)
            first, last = max(begin, at) - at, min(end, at + count) - at
            if first < last:
                rows = self._stored(low + first * self.step, low + (last - 1) * self.step + 1)
                pieces.append(rows[:: self.step])
            at += count
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _picked(self, rows: npt.NDArray[np.int64]) -> F32:
        index = np.concatenate([np.arange(low, high, self.step) for low, high in self.ranges])[rows]
        if self.whole is None:
            self.whole = self.tensor.read()
        if not self.sideways:
            return to_f32(self.whole[index], self.tensor.dtype)
        low, high = self.rows_in_ranges[0][0], self.rows_in_ranges[-1][1]
        return to_f32(np.ascontiguousarray(self.whole[low:high][:, index].T), self.tensor.dtype)

    def _stored(self, begin: int, end: int) -> F32:
        if not self.sideways:
            rows = to_f32(self.tensor.read(begin, end), self.tensor.dtype)
            return rows.reshape(len(rows), -1)  # a convolution's kernel has four dimensions
        if self.whole is None:
            self.whole = self.tensor.read()
        low, high = self.rows_in_ranges[0][0], self.rows_in_ranges[-1][1]
        return to_f32(np.ascontiguousarray(self.whole[low:high, begin:end].T), self.tensor.dtype)

    def close(self) -> None:
        """Lets go of what was kept."""
        self.whole = self.kept = None


def read_vector(checkpoint: Checkpoint, vector: Vector) -> F32:
    """A vector as f32 [count]."""
    if vector.values is not None:
        return np.asarray(vector.values, dtype=np.float32)
    assert vector.tensor is not None
    tensor = checkpoint.tensor(vector.tensor)
    flat = to_f32(tensor.read(), tensor.dtype).reshape(-1)
    if vector.ranges:
        flat = np.concatenate([flat[a : b : vector.step] for a, b in vector.ranges])
    if not np.isfinite(flat).all():
        raise CheckpointError(f"{tensor.path}: tensor '{tensor.name}' holds NaN or infinity")
    if vector.order is not None:
        flat = flat[read_order(checkpoint, vector.order)]
    out: F32 = flat + np.float32(vector.add) if vector.add else flat
    return out


def read_order(checkpoint: Checkpoint, name: str) -> npt.NDArray[np.int64]:
    """A permutation, stored as f32 (exact for any size a model has)."""
    tensor = checkpoint.tensor(name)
    order = np.asarray(to_f32(tensor.read(), tensor.dtype).reshape(-1), dtype=np.int64)
    if not np.array_equal(np.sort(order), np.arange(len(order))):
        raise CheckpointError(f"{tensor.path}: tensor '{name}' is not a permutation")
    return order
