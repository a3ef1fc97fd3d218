"""Tables and scales of scaled palettes without calibration text.

Groups are divided by their largest magnitude, which matters more than the table does; k-means over what results
gives one table for the matrix, and each group then takes the scale that leaves the least error. The largest scale
is 95.9: weights beyond it are cut off there, as those beyond 65504 are in f16.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F16, F32, U8, Arrays, Codec
from edgekit.codecs.scaled_palette import ONE, SCALES, STEPS, ScaledPalette
from edgekit.solvers.base import Made, Solver, Statistics, register
from edgekit.solvers.kmeans import count_halves, kmeans_histogram, nearest
from edgekit.solvers.nearest import grouped

LARGEST = np.float32(127 / 128)  # entry of a table
TRIED = range(-3, 3)  # scale codes beside that of the largest magnitude


class Search(Solver):
    """One table for the matrix by k-means, a searched scale for each group, the nearest entry for each weight."""

    name = "search"

    def takes(self, codec: Codec) -> bool:
        return isinstance(codec, ScaledPalette) and codec.lut_rows == 0

    def shared(self, codec: Codec, chunks: Iterable[F32], statistics: Statistics) -> Made:
        assert isinstance(codec, ScaledPalette)
        return {"lut": table_of(codec, chunks)}

    def solve(self, codec: Codec, rows: F32, shared: Arrays, statistics: Statistics) -> Made:
        assert isinstance(codec, ScaledPalette)
        table = shared["lut"][0].astype(np.float32)
        scale = searched_scales(codec, rows, table, statistics.column_weights(rows.shape[1]))
        return {"codes": nearest(normalized(codec, rows, scale), table), "scale": scale}


def table_of(codec: ScaledPalette, chunks: Iterable[F32]) -> F16:
    """One table f16 [1, 2^bits] of multiples of 1/128 for the groups of all chunks, each divided by its scale."""
    values, counts = count_halves(_scaled(codec, rows) for rows in chunks)
    centroids = kmeans_histogram(values, counts, 1 << codec.bits)
    whole = np.clip(np.rint(np.sort(centroids) * 128), -127, 127)
    return (whole / 128).astype("<f2")[None]


def _scaled(codec: ScaledPalette, rows: F32) -> F32:
    return normalized(codec, rows, largest_scales(codec, rows))


def largest_scales(codec: ScaledPalette, rows: F32) -> U8:
    """Scale codes u8 [n, groups] with which no weight is beyond the largest entry; 0 for groups of zeros."""
    largest = np.abs(grouped(rows, codec.group_size)).max(axis=-1) / LARGEST
    with np.errstate(divide="ignore"):
        code = np.ceil(ONE + STEPS * np.log2(largest.astype(np.float64)) - 1e-6)
    return np.where(largest > 0, np.clip(code, 1, 255), 0).astype(np.uint8)


def normalized(codec: ScaledPalette, rows: F32, scale: U8) -> F32:
    """Rows divided by the scales of their groups, f32 [n, cols]; zeros where the scale is zero."""
    step = SCALES[scale]
    inverse = np.divide(1.0, step, out=np.zeros_like(step), where=step != 0)
    out: F32 = rows * inverse[:, np.arange(rows.shape[1]) // codec.group_size]
    return out


def searched_scales(codec: ScaledPalette, rows: F32, table: F32, weights: F32 | None) -> U8:
    """Of a few scale codes around the largest magnitude's, those with the least weighted error, u8 [n, groups]."""
    start = largest_scales(codec, rows)
    best, least = start.copy(), np.full(start.shape, np.inf, np.float32)
    groups = np.arange(0, rows.shape[1], codec.group_size)
    column = np.arange(rows.shape[1]) // codec.group_size
    for shift in TRIED:
        code = np.clip(start.astype(np.int16) + shift, 1, 255).astype(np.uint8)
        made = table[nearest(normalized(codec, rows, code), table)] * SCALES[code][:, column]
        error: npt.NDArray[np.float32] = np.square(made - rows)
        if weights is not None:
            error *= weights
        total = np.add.reduceat(error, groups, axis=1)
        better = (total < least) & (start > 0)
        best[better], least[better] = code[better], total[better]
    return best


register(Search())
