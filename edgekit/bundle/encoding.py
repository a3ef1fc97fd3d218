"""One matrix of a bundle as a job: what must be read, by which solver it is encoded, and the bytes that come of it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle.layout import MatrixPlan, round_up, rows_per_step
from edgekit.bundle.source import RowSource, read_order
from edgekit.checkpoint import Checkpoint
from edgekit.checkpoint.safetensors import Tensor
from edgekit.errors import CheckpointError, ConvertError
from edgekit.solvers import Statistics

BEGINNING = 1 << 16  # bytes of a file that are compared, so that another file of the same size is noticed


@dataclass(frozen=True)
class SourceFile:
    """A file that a job reads, so that whoever does the job can tell whether it has the same one."""

    path: Path
    size: int
    beginning: str

    def check(self) -> None:
        """Compares with what lies here.

        Raises:
            ConvertError: missing or different.
        """
        try:
            here = source_file(self.path)
        except OSError as error:
            raise ConvertError(
                f"{self.path}: a worker cannot read it ({error.strerror}); put the checkpoint in a folder that all "
                "workers see under the same path"
            ) from error
        if here != self:
            raise ConvertError(f"{self.path}: a worker has another file under this path; give all workers the same one")


def source_file(path: Path) -> SourceFile:
    """Describes a file as it is here."""
    with path.open("rb") as file:
        return SourceFile(path, path.stat().st_size, hashlib.sha256(file.read(BEGINNING)).hexdigest())


@dataclass(frozen=True)
class EncodeJob:
    """A matrix to encode.

    Attributes:
        plan: its parts, codecs, solvers and units.
        checkpoint: with the tensors of the parts and nothing else.
        orders: of each part's rows; None as they are stored.
        statistics: of each part.
        files: that are read.
    """

    plan: MatrixPlan
    checkpoint: Checkpoint
    orders: tuple[npt.NDArray[np.int64] | None, ...]
    statistics: tuple[Statistics, ...]
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class Units:
    """Encoded units uint8 [units, unit_stride], and the number of the first."""

    first: int
    block: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tables:
    """The last piece of a job: each part's tables, one after the other; empty for codecs without."""

    luts: tuple[list[npt.NDArray[Any]], ...]


def encode_job(checkpoint: Checkpoint, plan: MatrixPlan, statistics: Sequence[Statistics]) -> EncodeJob:
    """The job of one matrix."""
    names = {p.source.tensor for p in plan.parts}
    tensors = {name: checkpoint.tensor(name) for name in names}
    small = dataclasses.replace(checkpoint, tensors=tensors, files={}, config={}, generation={}, sentence=None)
    orders = tuple(None if p.order is None else read_order(checkpoint, p.order) for p in plan.parts)
    try:
        files = tuple(source_file(p) for p in sorted({p for t in tensors.values() for p in _paths(t)}))
    except OSError as error:
        raise CheckpointError(f"{checkpoint.path}: cannot read: {error.strerror}") from error
    return EncodeJob(plan, small, orders, tuple(statistics), files)


def encoded(job: EncodeJob) -> Iterator[Units | Tables]:
    """Does a job: its units in order, then its tables.

    Raises:
        CheckpointError: the source turned out unreadable.
        ConvertError: this is another machine, and it does not see the same files.
    """
    for file in job.files:
        file.check()
    plan, statistics = job.plan, job.statistics
    sources = [
        RowSource(job.checkpoint, p.source, p.by_column, order) for p, order in zip(plan.parts, job.orders, strict=True)
    ]
    whole = any(p.solver.whole(p.codec, s) for p, s in zip(plan.parts, statistics, strict=True))
    step = round_up(plan.rows, plan.rows_per_unit) if whole else rows_per_step(plan)
    shared = [
        source.tensor.shared
        if p.rule.kept
        else p.solver.shared(p.codec, (source.rows(r, min(r + step, plan.rows)) for r in range(0, plan.rows, step)), s)
        for p, source, s in zip(plan.parts, sources, statistics, strict=True)
    ]
    luts: list[list[npt.NDArray[Any]]] = [[] for _ in plan.parts]
    for begin in range(0, plan.rows, step):
        end = min(begin + step, plan.rows)
        records = []
        for i, (part, source) in enumerate(zip(plan.parts, sources, strict=True)):
            if part.rule.kept:
                made = source.arrays(begin, end)
            else:
                made = part.solver.solve(part.codec, source.rows(begin, end), shared[i], statistics[i])
            records.append(part.codec.pack(made, part.cols))
            if "lut" in made:
                luts[i].append(made["lut"])
        yield Units(begin // plan.rows_per_unit, _units(plan, np.concatenate(records, axis=1)))
    yield Tables(tuple([s["lut"]] if "lut" in s else tables for s, tables in zip(shared, luts, strict=True)))


def _units(plan: MatrixPlan, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Rows [n, row_stride] as units [m, unit_stride]; the last may be partly empty."""
    per, stride = plan.rows_per_unit, plan.unit_stride
    units = -(-len(rows) // per)
    out = np.zeros((units, stride), dtype=np.uint8)
    whole = len(rows) // per
    out[:whole, : per * plan.row_stride] = rows[: whole * per].reshape(whole, per * plan.row_stride)
    rest = rows[whole * per :].reshape(-1)
    if len(rest):
        out[whole, : len(rest)] = rest
    return out


def _paths(tensor: Tensor) -> Iterator[Path]:
    """The files of a tensor, and of those that it is made of."""
    yield tensor.path
    for field in dataclasses.fields(tensor):
        value = getattr(tensor, field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Tensor):
                yield from _paths(inner)
