"""How much each tensor of a model matters, and what each codec loses of it.

What a codec loses of a tensor is the share of its output's energy that becomes error: of the weights' energy without
calibration text. With text, how much that matters is measured: the model reads the text with only this tensor coded,
and the KL divergence from the original is divided by the share lost. Without text every tensor counts the same, which
says that an equal relative error of each does equal harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.bundle.layout import Layout
from edgekit.bundle.patch import replaced
from edgekit.bundle.source import RowSource
from edgekit.bundle.writer import StatisticsOf
from edgekit.checkpoint import Checkpoint
from edgekit.codecs import Codec, make_codec
from edgekit.evaluate.comparison import log_softmax
from edgekit.recipe.allocation import Choice, Tensor, candidates
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.solvers import NOTHING, Statistics, best_with_text, encode, solver_for

F32 = npt.NDArray[np.float32]
SAMPLED = 256  # rows of a tensor from which losses are estimated
PROBE = 3  # bits of the codec with which a tensor's sensitivity is measured
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reader:
    """What measures sensitivity.

    Attributes:
        plain: the model in f16, in the bundle layout; its file is written to, and left as it was.
        runs: token ids; each run is a text of its own.
        options: of the runtime.
        statistics: what the text says of parts.
    """

    plain: Path
    runs: Sequence[Sequence[int]]
    options: Options
    statistics: StatisticsOf


def tensors(checkpoint: Checkpoint, layout: Layout, reader: Reader | None, progress: Progress) -> list[Tensor]:
    """Every tensor of a model with what each candidate codec costs and loses.

    Args:
        checkpoint: the source of the weights.
        layout: of the plain bundle.
        reader: measures sensitivity; None to assume it.
        progress: called with (tensors done, of all).
    """
    places = [(m.name, i, p) for m in layout.matrices for i, p in enumerate(m.parts)]
    want = None if reader is None else _read(reader)
    out = []
    for done, (matrix, index, part) in enumerate(places):
        source = RowSource(checkpoint, part.source, part.by_column)
        statistics = NOTHING if reader is None else reader.statistics(part)
        factor = 1.0
        if reader is not None and want is not None:
            factor = _sensitivity(reader, matrix, index, source.rows(0, part.rows), statistics, want)
        rows, sampled = _sample(source, part.rows, statistics)
        choices = tuple(
            Choice(c, c.coded_bits(part.rows, part.cols), factor * lost(coded(c, rows, sampled), rows, sampled))
            for c in candidates(part.cols)
        )
        out.append(Tensor(part.name, part.rows * part.cols, factor, choices))
        progress(done + 1, len(places))
    return out


def _sample(source: RowSource, rows: int, statistics: Statistics) -> tuple[F32, Statistics]:
    """Some outputs of a matrix, all if they are few: rows in four runs, or columns where the inputs are rows."""
    if statistics.inputs_are_rows and statistics.hessian is not None:
        whole = source.rows(0, rows)
        step = max(1, whole.shape[1] // SAMPLED) * 32
        keep = (np.arange(whole.shape[1]) % step) < 32
        return np.ascontiguousarray(whole[:, keep]), statistics
    if rows <= SAMPLED:
        return source.rows(0, rows), statistics
    run = SAMPLED // 4
    begins = np.linspace(0, rows - run, 4).astype(int).tolist()
    return np.concatenate([source.rows(b, b + run) for b in begins]), statistics


def coded(codec: Codec, rows: F32, statistics: Statistics) -> F32:
    """Rows as a codec holds them, f32 [n, cols], by the best solver that there is for these statistics."""
    name = best_with_text(codec) if statistics.hessian is not None else None
    made = encode(codec, rows, solver_for(codec, name), statistics)
    return codec.values(made.arrays, rows.shape[1]).dense()


def lost(made: F32, rows: F32, statistics: Statistics) -> float:
    """Share of the output's energy that is lost, of the weights' without a Hessian; 0 for zeros."""
    whole, energy = _energy(rows, statistics), _energy(made - rows, statistics)
    return energy / whole if whole else 0.0


def _energy(rows: F32, statistics: Statistics) -> float:
    """The mean square of what rows make of the inputs, summed over outputs."""
    w = rows.T if statistics.inputs_are_rows else rows
    h = statistics.hessian
    return float(np.square(w, dtype=np.float64).sum() if h is None else (w @ h * w).sum(dtype=np.float64))


def _read(reader: Reader) -> list[F32]:
    """Log probabilities of each run, f32 [tokens, vocabulary]."""
    out = []
    with Session(reader.plain, reader.options) as session:
        for ids in reader.runs:
            session.reset()
            out.append(log_softmax(session.logits(list(ids))).astype(np.float32))
    return out


def _sensitivity(
    reader: Reader, matrix: str, index: int, rows: F32, statistics: Statistics, want: Sequence[F32]
) -> float:
    """Nats of KL divergence per lost share of one tensor's output."""
    made = coded(make_codec("scaled_palette", PROBE, group_size=64), rows, statistics)
    share = lost(made, rows, statistics)
    with replaced(reader.plain, matrix, index, lambda _: made):
        got = _read(reader)
    kl = sum(float((np.exp(p, dtype=np.float64) * (p - q)).sum()) for p, q in zip(want, got, strict=True))
    return max(kl, 0.0) / sum(len(r) for r in reader.runs) / share if share else 0.0
