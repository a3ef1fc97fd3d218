"""The inputs' Hessians of a model's matrices on calibration text, some at a time.

A Hessian is the mean of x x^T over the inputs x of a matrix. Those of all matrices would outgrow the model, so the
text is read once for each group of matrices whose Hessians fit into the memory that is allowed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.bundle.layout import Layout, PartPlan
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.solvers import Statistics

F32 = npt.NDArray[np.float32]
Place = tuple[int, int]  # a matrix of the bundle that reads the text, and which of its parts
MEMORY = 800 << 20
Note = Callable[[str, int, int], None]


@dataclass
class Hessians:
    """Statistics of parts by name, in the order in which a writer asks for them.

    Attributes:
        bundle: the model, in the bundle layout, that reads the text.
        layout: of that bundle.
        runs: token ids; each run is a text of its own.
        options: of the runtime.
        order: neurons of a matrix in the order of the bundle to be written, by the name of the order.
        memory: bytes of Hessians held at a time.
        always: also of parts whose solver does not ask for statistics.
        note: called with what is being done, and how far it is.
    """

    bundle: Path
    layout: Layout
    runs: Sequence[Sequence[int]]
    options: Options
    order: Callable[[str], npt.NDArray[np.int64]]
    memory: int = MEMORY
    always: bool = False
    note: Note = lambda what, done, total: None
    held: dict[Place, F32] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        shared = _same_inputs(manifest.read(self.bundle).data)
        self.places: dict[str, Place] = {}
        self.sizes: dict[Place, int] = {}
        for i, matrix in enumerate(self.layout.matrices):
            for j, part in enumerate(matrix.parts):
                first = part.by_column and j == len(matrix.parts) - 1
                place = (shared.get(i, i), j if first else 0)
                self.places[part.name] = place
                self.sizes[place] = part.rows if part.by_column else part.cols

    def of(self, part: PartPlan) -> Statistics:
        """The statistics of a part; without a Hessian if its solver needs none, or if no text reached it."""
        place = self.places.get(part.name)
        if place is None or not (self.always or part.solver.needs_text):
            return Statistics(None, part.by_column)
        with self.lock:
            if place not in self.held:
                self._read(place)
            hessian = self.held[place]
        if not hessian.any():
            return Statistics(None, part.by_column)
        if part.by_column and part.order is not None:
            order = self.order(part.order)
            hessian = hessian[np.ix_(order, order)]
        return Statistics(hessian, part.by_column)

    def _read(self, first: Place) -> None:
        """Fills `held` with the Hessians of the next matrices from `first` on."""
        wanted, size = set[Place](), 0
        places = list(dict.fromkeys(self.places.values()))
        for place in places[places.index(first) :]:
            size += 4 * self.sizes[place] ** 2
            if wanted and size > self.memory:
                break
            wanted.add(place)
        self.held = {place: np.zeros((self.sizes[place],) * 2, np.float32) for place in wanted}
        counts = dict.fromkeys(wanted, 0)

        def take(matrix: int, part: int, x: F32) -> None:
            place = (matrix, part)
            if place in wanted:
                rows = x[:, : self.sizes[place]]
                self.held[place] += rows.T @ rows
                counts[place] += len(rows)

        total, done = sum(len(r) for r in self.runs), 0
        with Session(self.bundle, self.options) as session, session.capturing_inputs(take):
            for ids in self.runs:
                session.read(ids)
                done += len(ids)
                self.note("reading the text", done, total)
        for place, count in counts.items():
            self.held[place] /= np.float32(max(1, count))


def _same_inputs(data: dict[str, Any]) -> dict[int, int]:
    """Matrices that read what another one reads, by number: keys and values are what queries are computed from."""
    number = {m["name"]: i for i, m in enumerate(data["matrices"])}
    out: dict[int, int] = {}
    for block in data["model"]["blocks"]:
        if block["kind"] == "attention":
            out |= {number[block[name]]: number[block["q"]] for name in ("k", "v")}
    return out
