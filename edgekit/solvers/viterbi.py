"""Codes of a trellis by a Viterbi search in the runtime (runtime/src/encode).

Every path of the search carries its own error feedback (per-survivor processing), so columns are chosen with their
Hessian at once; rows with a Hessian (inputs, or outputs whose gradients are known) feed their errors to the rows after
them, as LDLQ does, and then all rows are searched again, each with all others fixed (coordinate descent). The search
goes round the row: the first pass leaves the ends free, the second makes them fit, and later ones begin at other
columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F32, U8, Arrays, Codec, padded, widened
from edgekit.codecs.bitshift import DEVIATION, UNIT
from edgekit.codecs.scaled_palette import ONE, STEPS
from edgekit.codecs.trellis import Trellis
from edgekit.runtime.trellis import Factor, TrellisRows, factor, lower_factor, search_pass
from edgekit.solvers.base import Made, Solver, Statistics, register
from edgekit.solvers.gptq import damped

# Of the values' deviation to the row's, by bits: found on Gaussian rows. Fewer bits reach less far out.
SPREAD = {2: 1.0, 3: 1.03, 4: 1.1}
NEARBY = (-1, 1)  # scale codes that the second pass tries; their neighbours are tried with the codes found
FREE = 1e-6  # of the mean diagonal: what an error in a column that only fills the row up costs

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Viterbi(Solver):
    """The search, with error feedback where a Hessian is known. `sweeps`: passes after the first two."""

    name: str = "viterbi"
    needs_text: bool = False
    sweeps: int = 0

    def takes(self, codec: Codec) -> bool:
        return isinstance(codec, Trellis)

    def whole(self, codec: Codec, statistics: Statistics) -> bool:
        return statistics.sides()[1] is not None

    def solve(self, codec: Codec, rows: F32, shared: Arrays, statistics: Statistics) -> Made:
        assert isinstance(codec, Trellis)
        width = padded(rows.shape[1])
        work = TrellisRows.begin(widened(rows, width), first_scales(rows, codec.bits))
        along, between = statistics.sides()
        columns = None if along is None else _filled_up(damped(along), width)
        self._search(work, codec, columns, None if between is None else damped(between))
        return {"codes": work.codes, "scale": work.scales[:, None]}

    def _search(self, work: TrellisRows, codec: Codec, columns: F64 | None, between: F64 | None) -> None:
        assert isinstance(codec, Trellis)
        width = work.weights.shape[1]
        sizes = (codec.bits, codec.state_bits)

        def factor_at(begin: int) -> Factor | None:
            return None if columns is None else factor(columns, begin)

        onward = None if between is None else np.tril(lower_factor(between)[0], -1).astype(np.float32)
        half = width // 2
        # Only the ends of this pass are used. They are as good without the columns' Hessian, which takes ten times as
        # long.
        search_pass(work, *sizes, half, None, onward, free_ends=True)
        search_pass(work, *sizes, 0, factor_at(0), onward, scale_steps=NEARBY if columns is None else (0,))
        mutual = None if between is None else _mutual(between)
        for i in range(self.sweeps):
            begin = (i + 1) * 5 * width // 13 % width  # anywhere, but not where a pass has begun
            search_pass(work, *sizes, begin, factor_at(begin), mutual, keep_better=True)


def first_scales(rows: F32, bits: int) -> U8:
    """Scale codes u8 [n] that suit Gaussian rows; 0 for rows of zeros."""
    deviation = np.sqrt(np.square(rows, dtype=np.float64).mean(axis=1))
    with np.errstate(divide="ignore"):
        code = np.rint(ONE + STEPS * np.log2(deviation * SPREAD[bits] / (DEVIATION * UNIT)))
    return np.where(deviation > 0, np.clip(code, 1, 255), 0).astype(np.uint8)


def _filled_up(hessian: F64, width: int) -> F64:
    """A Hessian of padded rows, where errors in the padding cost next to nothing."""
    out = np.eye(width) * (FREE * float(np.diagonal(hessian).mean()))
    out[: len(hessian), : len(hessian)] = hessian
    return out


def _mutual(hessian: F64) -> F32:
    """What the errors of all other rows add to a row's target, f32 [rows, rows]."""
    out = (hessian / np.diagonal(hessian)[:, None]).astype(np.float32)
    np.fill_diagonal(out, 0)
    return out


register(Viterbi())
register(Viterbi(name="ldlq", needs_text=True, sweeps=2))
register(Viterbi(name="ldlq8", needs_text=True, sweeps=8))  # three times as long, and a little closer
