"""GPTQ with error feedback, then coordinate descent, for affine codes and palettes with or without scales.

GPTQ (arXiv 2210.17323) chooses codes column by column and lets later columns make up for the error, by the
inverse Hessian of the inputs; columns with the largest diagonal come first. Coordinate descent then revisits every
code with all others fixed (as CDQuant, arXiv 2406.17542, does) until little changes. Tables and scales are chosen
before, from the weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekit.codecs.affine import Affine
from edgekit.codecs.base import F32, U8, Arrays, Codec
from edgekit.codecs.palette import Palette
from edgekit.codecs.scaled_palette import SCALES, ScaledPalette
from edgekit.solvers.base import Made, Solver, Statistics, register, solver_for
from edgekit.solvers.search import searched_scales

F64 = npt.NDArray[np.float64]
FACTORS = "gptq"  # in the statistics' memory
DAMPING = 0.01  # of the Hessian's mean diagonal, added to it
BLOCK = 64  # columns whose feedback is applied at once
SWEEPS = 4  # of coordinate descent, at most
ENOUGH = 200  # sweeps end when fewer than one code in so many changes
FEW = 8  # one row in so many


class Gptq(Solver):
    """Codes by error feedback over the inputs' Hessian; needs calibration text."""

    name = "gptq"
    needs_text = True

    def takes(self, codec: Codec) -> bool:
        return isinstance(codec, Affine | Palette) or (isinstance(codec, ScaledPalette) and codec.lut_rows == 0)

    def whole(self, codec: Codec, statistics: Statistics) -> bool:
        return statistics.inputs_are_rows

    def shared(self, codec: Codec, chunks: Iterable[F32], statistics: Statistics) -> Made:
        return solver_for(codec).shared(codec, chunks, statistics)

    def solve(self, codec: Codec, rows: F32, shared: Arrays, statistics: Statistics) -> Made:
        arrays = _start(codec, rows, shared, statistics)
        if statistics.hessian is None:
            return arrays
        grid = _Grid.of(codec, {**arrays, **shared}, rows.shape)
        if statistics.inputs_are_rows:
            grid = grid.turned()
        target = np.ascontiguousarray(rows.T) if statistics.inputs_are_rows else rows
        if FACTORS not in statistics.memory:
            statistics.memory[FACTORS] = _Factors.of(statistics.hessian)
        codes = _solved(target, grid, statistics.memory[FACTORS])
        arrays["codes"] = np.ascontiguousarray(codes.T) if statistics.inputs_are_rows else codes
        return arrays


def _start(codec: Codec, rows: F32, shared: Arrays, statistics: Statistics) -> Made:
    """Scales and tables, and codes to be replaced."""
    if isinstance(codec, ScaledPalette):
        table = shared["lut"][0].astype(np.float32)
        scale = searched_scales(codec, rows, table, statistics.column_weights(rows.shape[1]))
        return {"codes": np.zeros(rows.shape, np.uint8), "scale": scale}
    return solver_for(codec).solve(codec, rows, shared, statistics)


@dataclass(frozen=True)
class _Grid:
    """What codes stand for: table[row][code] * scale[row, column] + bias[row, column].

    table f32 [tables, entries], ascending; which [rows] is the table of a row; scale, bias f32 [rows, columns].
    """

    table: F32
    which: npt.NDArray[np.int64]
    scale: F32
    bias: F32 | None
    across: bool = False  # rows and columns of the targets are exchanged

    @staticmethod
    def of(codec: Codec, arrays: Arrays, shape: tuple[int, int]) -> _Grid:
        """The grid of a codec's scales and tables, for a matrix of this shape."""
        rows, cols = shape
        one_table = np.zeros(rows, np.int64)
        if isinstance(codec, Palette):
            which = np.arange(rows) // (codec.lut_rows or rows)
            return _Grid(arrays["lut"].astype(np.float32), which, np.ones((1, 1), np.float32), None)
        assert isinstance(codec, Affine | ScaledPalette)
        group = np.arange(cols) // codec.group_size
        if isinstance(codec, ScaledPalette):
            return _Grid(arrays["lut"].astype(np.float32), one_table, SCALES[arrays["scale"]][:, group], None)
        scale = arrays["scale"].astype(np.float32)
        bias = arrays["bias"] if "bias" in arrays else scale * -float(1 << (codec.bits - 1))
        table = np.arange(1 << codec.bits, dtype=np.float32)[None]
        return _Grid(table, one_table, scale[:, group], bias.astype(np.float32)[:, group])

    def turned(self) -> _Grid:
        """The same for the transposed matrix."""
        bias = None if self.bias is None else np.ascontiguousarray(self.bias.T)
        return _Grid(self.table, self.which, np.ascontiguousarray(self.scale.T), bias, not self.across)

    def round(self, column: int, wanted: F32) -> tuple[U8, F32]:
        """The nearest codes u8 [rows] to numbers f32 [rows] in a column of the targets, and their values f32 [rows]."""
        scale = self.scale[:, min(column, self.scale.shape[1] - 1)]
        bias = None if self.bias is None else self.bias[:, column]
        x = wanted if bias is None else wanted - bias
        x = np.divide(x, scale, out=np.zeros_like(wanted), where=scale != 0)
        which = self.which[column : column + 1] if self.across else self.which
        code = self._nearest(x, which)
        made = self.table[which if len(self.table) > 1 else 0, code] * scale
        return code, made if bias is None else made + bias

    def _nearest(self, x: F32, which: npt.NDArray[np.int64]) -> U8:
        middle = (self.table[:, 1:] + self.table[:, :-1]) / 2
        if len(middle) == 1 or len(which) == 1:
            row = middle[0] if len(middle) == 1 else middle[which[0]]
            codes: U8 = np.searchsorted(row, x).astype(np.uint8)
            return codes
        return np.asarray((x[:, None] > middle[which]).sum(axis=1), np.uint8)


@dataclass(frozen=True)
class _Factors:
    """What is computed once from a Hessian: itself damped, the order of columns, and the feedback in that order."""

    hessian: F32
    order: npt.NDArray[np.int64]
    feedback: F32

    @staticmethod
    def of(hessian: F32) -> _Factors:
        """From the inputs' Hessian f32 [inputs, inputs]."""
        h = damped(hessian)
        order = np.argsort(-np.diagonal(h), kind="stable")
        return _Factors(h.astype(np.float32), order, feedback_factor(h[np.ix_(order, order)]))


def _solved(target: F32, grid: _Grid, factors: _Factors) -> U8:
    """Codes u8 [rows, columns] of targets f32 [rows, columns], columns being the inputs."""
    turned = np.ascontiguousarray(target.T)  # [columns, rows]: a column is one run of memory
    codes, made = _fed_back(turned, grid, factors)
    _descend(turned, grid, factors, codes, made)
    return np.ascontiguousarray(codes.T)


def damped(hessian: F32) -> F64:
    """The Hessian with a share of its mean diagonal added, so that it has an inverse; inputs that are always zero
    get a diagonal of their own."""
    h = hessian.astype(np.float64)
    mean = float(np.diagonal(h).mean())
    if not np.isfinite(mean) or mean <= 0:
        return np.eye(len(h))
    h[np.diag_indices(len(h))] += DAMPING * mean
    return h


def feedback_factor(h: F64) -> F32:
    """U f32 [n, n], upper triangular with a unit diagonal: an error e in column j asks for -e * U[j, k] in each
    later column k. From the Cholesky factor of the inverse (GPTQ, section 3.3, step 3)."""
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    return np.asarray(upper / np.diagonal(upper)[:, None], np.float32)


def _fed_back(target: F32, grid: _Grid, factors: _Factors) -> tuple[U8, F32]:
    """GPTQ: codes and their values, [columns, rows] as the target."""
    cols, rows = target.shape
    order, factor = factors.order, factors.feedback
    work = target[order]
    codes, made = np.empty((cols, rows), np.uint8), np.empty((cols, rows), np.float32)
    for begin in range(0, cols, BLOCK):
        end = min(begin + BLOCK, cols)
        errors = np.empty((end - begin, rows), np.float32)
        for j in range(begin, end):
            column = int(order[j])
            codes[column], made[column] = grid.round(column, work[j])
            errors[j - begin] = work[j] - made[column]
            if j + 1 < end:
                work[j + 1 : end] -= factor[j, j + 1 : end, None] * errors[j - begin]
        if end < cols:
            work[end:] -= factor[begin:end, end:].T @ errors
    return codes, made


def _descend(target: F32, grid: _Grid, factors: _Factors, codes: U8, made: F32) -> None:
    """Coordinate descent on all codes [columns, rows], in place; never makes the error larger."""
    step, order = factors.hessian, factors.order
    diagonal = np.diagonal(step)
    cols, rows = target.shape
    slope = step @ (made - target)  # half the gradient of the error
    for _ in range(SWEEPS):
        changed = 0
        for begin in range(0, cols, BLOCK):
            block = order[begin : begin + BLOCK]
            inner, near = step[np.ix_(block, block)], slope[block]
            moved = np.zeros((len(block), rows), np.float32)
            for i, column in enumerate(block.tolist()):
                code, value = grid.round(column, made[column] - near[i] / diagonal[column])
                hit = np.flatnonzero(code != codes[column])
                if len(hit) == 0:
                    continue
                move = value - made[column]
                changed += len(hit)
                codes[column], made[column], moved[i] = code, value, move
                if len(hit) * FEW > rows:
                    near[i + 1 :] += inner[i, i + 1 :, None] * move
                else:  # few rows moved: only those
                    near[i + 1 :, hit] += inner[i, i + 1 :, None] * move[hit]
            slope += step[:, block] @ moved
        if changed * ENOUGH < codes.size:
            break


register(Gptq())
