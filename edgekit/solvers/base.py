"""What a solver is: it chooses a codec's arrays for a matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F32, U8, Arrays, Codec
from edgekit.errors import RecipeError

Made = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Statistics:
    """What calibration text says of a matrix.

    Attributes:
        hessian: f32 [inputs, inputs], the mean of x x^T over the matrix's inputs x, weighted by what the loss says of
            their outputs if gradients are known; None without text.
        inputs_are_rows: the matrix's rows are its inputs, as the down projection of a bundle is stored.
        outputs: f32 [outputs, outputs], the mean of g g^T over the gradients g of the matrix's outputs, on a scale
            where half of tr(outputs E hessian E^T) is the KL divergence in nats per token that small errors
            E [outputs, inputs] cause; None without gradients.
        memory: what solvers computed from the Hessian, for the next rows or codec.
    """

    hessian: F32 | None = None
    inputs_are_rows: bool = False
    outputs: F32 | None = None
    memory: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What another process gets: all but `memory`, which it computes again."""
        return {**self.__dict__, "memory": {}}

    def column_weights(self, cols: int) -> F32 | None:
        """How much an error in each column costs, f32 [cols]; None if all cost the same."""
        if self.hessian is None or self.inputs_are_rows:
            return None
        return np.maximum(np.diagonal(self.hessian), 0).astype(np.float32)

    def sides(self) -> tuple[F32 | None, F32 | None]:
        """Hessians of the matrix's columns and of its rows, as it is stored."""
        return (self.outputs, self.hessian) if self.inputs_are_rows else (self.hessian, self.outputs)


NOTHING = Statistics()


class Solver(ABC):
    """Chooses the arrays of a matrix.

    Attributes:
        name: in recipes.
        needs_text: it wants the inputs' Hessian, and so a calibration text.
    """

    name: str
    needs_text: bool = False

    @abstractmethod
    def takes(self, codec: Codec) -> bool:
        """Whether it can choose arrays of this codec."""

    def whole(self, codec: Codec, statistics: Statistics) -> bool:
        """Whether it needs all rows of a matrix at once; else they come in chunks that begin a table."""
        return False

    def shared(self, codec: Codec, chunks: Iterable[F32], statistics: Statistics) -> Made:
        """Arrays that all rows share, from one pass over the matrix; empty if there are none."""
        return {}

    @abstractmethod
    def solve(self, codec: Codec, rows: F32, shared: Arrays, statistics: Statistics) -> Made:
        """The arrays of rows f32 [n, cols], without those that are `shared`."""


_SOLVERS: dict[str, Solver] = {}


def register(solver: Solver) -> None:
    """Makes a solver known by name; refuses a second one of the same name."""
    if solver.name in _SOLVERS:
        raise ValueError(f"two solvers are named '{solver.name}'")
    _SOLVERS[solver.name] = solver


def solver_names() -> list[str]:
    """Names that `solver_for` knows, in the order in which they are preferred."""
    return list(_SOLVERS)


def solver_for(codec: Codec, name: str | None = None) -> Solver:
    """A codec's solver by name, or the first that takes the codec and needs no text.

    Raises:
        RecipeError: unknown, or not for this codec.
    """
    if name is None:
        return next(s for s in _SOLVERS.values() if s.takes(codec) and not s.needs_text)
    if name not in _SOLVERS:
        raise RecipeError(f"solver '{name}' is unknown; known: {', '.join(_SOLVERS)}")
    if not _SOLVERS[name].takes(codec):
        fit = [s.name for s in _SOLVERS.values() if s.takes(codec)]
        raise RecipeError(f"solver '{name}' cannot choose the values of '{codec.name}'; these can: {', '.join(fit)}")
    return _SOLVERS[name]


def best_with_text(codec: Codec) -> str | None:
    """Name of the first solver that makes use of calibration text for a codec; None if there is none."""
    return next((s.name for s in _SOLVERS.values() if s.needs_text and s.takes(codec)), None)


@dataclass(frozen=True)
class Encoded:
    """Rows in a codec: `records` [rows, record_bytes], all `arrays`, and among them `lut` for palettes."""

    records: U8
    arrays: Arrays

    @property
    def lut(self) -> npt.NDArray[np.float16] | None:
        """Tables f16 [tables, entries], if the codec has any."""
        return self.arrays.get("lut")


def encode(codec: Codec, rows: F32, solver: Solver | None = None, statistics: Statistics = NOTHING) -> Encoded:
    """A whole matrix f32 [rows, cols] at once, by `solver` or the codec's own."""
    chosen = solver or solver_for(codec)
    shared = chosen.shared(codec, [rows], statistics)
    arrays = {**chosen.solve(codec, rows, shared, statistics), **shared}
    return Encoded(codec.pack(arrays, rows.shape[1]), arrays)
