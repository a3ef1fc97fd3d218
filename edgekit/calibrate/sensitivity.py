"""How much each tensor of a model matters, and what each codec loses of it.

What a codec loses of a tensor is the share of its output's energy that becomes error: of the weights' energy without
calibration text. With text, how much that matters is measured: all tensors are coded with about the wanted bits, and
the model reads the text with one tensor in a bit less and in a bit more. The change of the KL divergence from the
original, over that of the share lost, is the tensor's sensitivity. (Measured with all other tensors uncoded it came
out too small for queries and outputs of attention: errors add up to more than their sum.) Where gradients are known,
nothing is measured: half of a tensor's energy under both Hessians is what losing all of it would cost to second order.
Without text every tensor counts the same, which says that an equal relative error of each does equal harm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekit.bundle.layout import Layout, PartPlan
from edgekit.bundle.patch import replace, replaced
from edgekit.bundle.source import RowSource
from edgekit.bundle.writer import StatisticsOf
from edgekit.checkpoint import Checkpoint
from edgekit.codecs import Codec
from edgekit.evaluate.comparison import log_softmax
from edgekit.recipe.allocation import Choice, Tensor, candidates
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.solvers import NOTHING, Statistics, best_with_text, encode, solver_for

F32 = npt.NDArray[np.float32]
SAMPLED = 256  # rows of a tensor from which losses are estimated
LOGITS = 256 << 20  # bytes of the original's distributions that are kept
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reader:
    """What measures sensitivity.

    Attributes:
        plain: the model in f16, in the bundle layout; its weights are replaced by coded ones.
        runs: token ids; each run is a text of its own.
        options: of the runtime.
        statistics: what the text says of parts.
        bits: about those that will be wanted on average.
    """

    plain: Path
    runs: Sequence[Sequence[int]]
    options: Options
    statistics: StatisticsOf
    bits: int


def tensors(
    checkpoint: Checkpoint, layout: Layout, method: str, reader: Reader | None, progress: Progress
) -> list[Tensor]:
    """Every tensor of a model with what each candidate codec costs and loses.

    Args:
        checkpoint: the source of the weights.
        layout: of the plain bundle.
        method: of the candidates.
        reader: measures sensitivity; None to assume it.
        progress: called with (tensors done, of all).
    """
    places = [(m.name, i, p) for m in layout.matrices for i, p in enumerate(m.parts)]
    measured = reader is not None and any(reader.statistics(part).outputs is None for *_, part in places)
    want = _read(reader) if reader is not None and measured else None
    for done, (matrix, index, part) in enumerate(places if measured else ()):
        assert reader is not None
        rows = RowSource(checkpoint, part.source, part.by_column).rows(0, part.rows)
        replace(reader.plain, matrix, index, coded(_codec(part, method, reader.bits), rows, reader.statistics(part)))
        progress(done + 1, 2 * len(places))
    out = []
    for done, (matrix, index, part) in enumerate(places):
        source = RowSource(checkpoint, part.source, part.by_column)
        statistics = NOTHING if reader is None else reader.statistics(part)
        factor = 1.0
        if statistics.outputs is not None:
            factor = _energy(source.rows(0, part.rows), statistics) / 2
        elif reader is not None and want is not None:
            factor = _sensitivity(reader, matrix, index, part, method, source.rows(0, part.rows), statistics, want)
        rows, sampled = _sample(source, part.rows, statistics)
        choices = tuple(
            Choice(c, c.coded_bits(part.rows, part.cols), factor * lost(coded(c, rows, sampled), rows, sampled))
            for c in candidates(part.cols, method)
        )
        out.append(Tensor(part.name, part.rows * part.cols, factor, choices))
        progress(done + 1 + (len(places) if measured else 0), len(places) * (2 if measured else 1))
    return out


def _codec(part: PartPlan, method: str, bits: int) -> Codec:
    """The candidate of a part with so many bits, or the nearest."""
    return min(candidates(part.cols, method), key=lambda c: abs(c.bits - bits))


def _sample(source: RowSource, rows: int, statistics: Statistics) -> tuple[F32, Statistics]:
    """Some outputs of a matrix, all if they are few: rows in four runs, or columns where the inputs are rows."""
    if statistics.inputs_are_rows and statistics.hessian is not None:
        whole = source.rows(0, rows)
        step = max(1, whole.shape[1] // SAMPLED) * 32
        keep = (np.arange(whole.shape[1]) % step) < 32
        return np.ascontiguousarray(whole[:, keep]), _of_outputs(statistics, np.flatnonzero(keep))
    if rows <= SAMPLED:
        return source.rows(0, rows), statistics
    run = SAMPLED // 4
    begins = np.linspace(0, rows - run, 4).astype(int).tolist()
    chosen = np.concatenate([np.arange(b, b + run) for b in begins])
    return np.concatenate([source.rows(b, b + run) for b in begins]), _of_outputs(statistics, chosen)


def _of_outputs(statistics: Statistics, chosen: npt.NDArray[np.int64]) -> Statistics:
    """The statistics of some outputs."""
    if statistics.outputs is None:
        return statistics
    return dataclasses.replace(statistics, outputs=statistics.outputs[np.ix_(chosen, chosen)], memory={})


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
    """The mean square of what rows make of the inputs, summed over outputs, weighted where gradients are known."""
    w = rows.T if statistics.inputs_are_rows else rows
    h, g = statistics.hessian, statistics.outputs
    left = w if g is None else g @ w
    return float(np.square(w, dtype=np.float64).sum() if h is None else (w @ h * left).sum(dtype=np.float64))


def _read(reader: Reader) -> list[F32]:
    """Log probabilities of each run, f32 [tokens, vocabulary]."""
    out = []
    with Session(reader.plain, reader.options) as session:
        for ids in reader.runs:
            session.reset()
            out.append(log_softmax(session.logits(list(ids))).astype(np.float32))
    return out


def _sensitivity(
    reader: Reader, matrix: str, index: int, part: PartPlan, method: str, rows: F32, statistics: Statistics,
    want: Sequence[F32],
) -> float:  # fmt: skip
    """Nats of KL divergence per lost share of one tensor's output."""
    kl, share = [], []
    for bits in (reader.bits - 1, reader.bits + 1):
        made = coded(_codec(part, method, bits), rows, statistics)
        share.append(lost(made, rows, statistics))
        with replaced(reader.plain, matrix, index, made):
            got = _read(reader)
        nats = sum(float((np.exp(p, dtype=np.float64) * (p - q)).sum()) for p, q in zip(want, got, strict=True))
        kl.append(nats / sum(len(r) for r in reader.runs))
    return max(0.0, (kl[0] - kl[1]) / (share[0] - share[1])) if share[0] > share[1] else 0.0
