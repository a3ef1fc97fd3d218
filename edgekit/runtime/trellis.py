"""The runtime's search for the codes of a trellis: one pass, and the factor of a Hessian that it wants."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit.runtime import native

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]


@dataclass
class TrellisRows:
    """Rows whose codes are being searched; passes change all but the weights.

    Attributes:
        weights: f32 [rows, cols], cols a multiple of 32.
        codes: u8 [rows, cols], as `edgekit.codecs.bitshift` has them.
        scales: u8 [rows], codes of scaled palettes' scales.
        errors: f32 [rows, cols], weights minus what codes and scales stand for.
    """

    weights: F32
    codes: U8
    scales: U8
    errors: F32

    @staticmethod
    def begin(weights: F32, scales: U8) -> TrellisRows:
        """Rows without codes."""
        weights = np.ascontiguousarray(weights, np.float32)
        codes = np.zeros(weights.shape, np.uint8)
        return TrellisRows(weights, codes, np.array(scales, np.uint8), np.zeros_like(weights))


@dataclass(frozen=True)
class Factor:
    """H = F' D F for a Hessian H [cols, cols] in the order of a search that begins at `begin`.

    feedback f32 [cols, cols]: F without its unit diagonal, lower triangular; pivots f32 [cols]: D.
    """

    begin: int
    feedback: F32
    pivots: F32


def search_order(cols: int, begin: int) -> npt.NDArray[np.int64]:
    """The columns in the order in which a pass visits them: from begin - 1 downward, around the row's end."""
    return np.asarray((begin - 1 - np.arange(cols)) % cols)


def lower_factor(hessian: F64) -> tuple[F64, F64]:
    """(F, D) with hessian = F' diag(D) F and F [n, n] lower triangular with a unit diagonal.

    Raises:
        numpy.linalg.LinAlgError: the Hessian is not positive definite; add to its diagonal.
    """
    upper = np.linalg.cholesky(hessian[::-1, ::-1]).T[::-1, ::-1]
    diagonal = np.diagonal(upper)
    return upper / diagonal[:, None], diagonal**2


def factor(hessian: F64, begin: int) -> Factor:
    """The factor of a positive definite Hessian f64 [cols, cols], its columns in natural order."""
    order = search_order(len(hessian), begin)
    lower, pivots = lower_factor(hessian[np.ix_(order, order)])
    return Factor(begin, np.tril(lower, -1).astype(np.float32), (pivots / pivots.mean()).astype(np.float32))


def search_pass(
    rows: TrellisRows,
    bits: int,
    state_bits: int,
    begin: int = 0,
    columns: Factor | None = None,
    row_feedback: F32 | None = None,
    *,
    free_ends: bool = False,
    keep_better: bool = False,
    scale_steps: Sequence[int] = (0,),
    history: int = 0,
    rows_at_once: int = 0,
    threads: int = 1,
) -> float:
    """One pass of the search over all rows (edgekit.h, edgekit_trellis); changes `rows` and returns their cost.

    Args:
        rows: what is searched.
        bits: of a weight, 2 to 4.
        state_bits: of the trellis, 12 to 16.
        begin: the column where the pass begins and ends.
        columns: the factor of the columns' Hessian for this `begin`; None: all columns cost the same.
        row_feedback: f32 [rows, rows], what the error in row s adds to the target of row r.
        free_ends: ends need not fit each other; for a first pass.
        keep_better: rows keep what they have where that costs less.
        scale_steps: what is added to scale codes to try others.
        history: columns for which a path remembers its errors: 16, 32, 64; 0: 64.
        rows_at_once: rows that are chosen side by side; 0: one with row_feedback.
        threads: the result does not depend on them.

    Raises:
        EdgekitError: something is not finite, or no size that the search knows.
    """
    steps = np.asarray(scale_steps, np.int32)
    feedback = None if columns is None else np.ascontiguousarray(columns.feedback)
    pivots = None if columns is None else np.ascontiguousarray(columns.pivots)
    between = None if row_feedback is None else np.ascontiguousarray(row_feedback, np.float32)
    job = native.Trellis(
        rows=rows.weights.shape[0], cols=rows.weights.shape[1], bits=bits, state_bits=state_bits, begin=begin,
        history=history, free_ends=free_ends, keep_better=keep_better, rows_at_once=rows_at_once, threads=threads,
        scale_step_count=len(steps), scale_steps=_address(steps), weights=_address(rows.weights),
        feedback=_address(feedback), pivots=_address(pivots), row_feedback=_address(between),
        errors=_address(rows.errors), codes=_address(rows.codes), scales=_address(rows.scales),
    )  # fmt: skip
    native.call("trellis_encode", c.byref(job))
    return float(job.cost)


def _address(array: npt.NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
