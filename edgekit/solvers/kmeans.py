"""One-dimensional k-means on sorted values, and the solver that takes palettes' tables from it.

With the values sorted and their prefix sums kept, a step of Lloyd's algorithm is a binary search per
boundary and two lookups per cluster: it does not depend on the number of values. The sort is the cost.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F16, F32, Arrays, Codec
from edgekit.codecs.palette import Palette
from edgekit.solvers.base import Made, Solver, Statistics, register

F64 = npt.NDArray[np.float64]

ITERATIONS = 40
BINS = 512


def kmeans_sorted(values: F32, k: int) -> F32:
    """Centroids [k] of sorted values [n]."""
    prefix = np.empty(len(values) + 1)
    prefix[0] = 0
    np.cumsum(values, dtype=np.float64, out=prefix[1:])
    return _lloyd(values, prefix, None, k)


def kmeans_histogram(values: F32, counts: npt.NDArray[np.int64], k: int) -> F32:
    """Centroids [k] of distinct sorted values [n], each occurring `counts` [n] times."""
    weights = np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])
    prefix = np.concatenate([[0.0], np.cumsum(values.astype(np.float64) * counts)])
    return _lloyd(values, prefix, weights, k)


def _start(values: F32, weights: F64 | None, k: int) -> F64:
    """Levels spaced by the cube root of the density, which is optimal for many levels (Panter and
    Dite, 1951); Lloyd's algorithm then needs few steps and seldom ends in a poor optimum."""
    low, high = float(values[0]), float(values[-1])
    if low == high:
        return np.full(k, low)
    edges = np.linspace(low, high, BINS + 1)
    at = np.searchsorted(values, edges.astype(np.float32))
    at[0], at[-1] = 0, len(values)
    mass = np.diff(at if weights is None else weights[at])
    spread = np.concatenate([[0.0], np.cumsum(np.cbrt(mass + 1e-9 * mass.sum()))])
    wanted = (np.arange(k) + 0.5) / k * spread[-1]
    levels: F64 = np.interp(wanted, spread, edges)
    return levels


def _lloyd(values: F32, prefix: F64, weights: F64 | None, k: int) -> F32:
    centroids = _start(values, weights, k)
    edges = np.empty(k + 1, dtype=np.int64)
    edges[0], edges[-1] = 0, len(values)
    before: npt.NDArray[np.int64] | None = None
    for _ in range(ITERATIONS):
        middle = ((centroids[1:] + centroids[:-1]) / 2).astype(np.float32)
        edges[1:-1] = np.searchsorted(values, middle)
        if before is not None and np.array_equal(edges, before):
            break
        before = edges.copy()
        size = np.diff(edges if weights is None else weights[edges])
        total = np.diff(prefix[edges])
        np.divide(total, size, out=centroids, where=size > 0)
        centroids.sort()
    return centroids.astype(np.float32)


def nearest(values: F32, table: F32) -> npt.NDArray[np.uint8]:
    """Index of the nearest entry of a sorted table, for each value; same shape as `values`."""
    middle = (table[1:] + table[:-1]) / 2
    if len(middle) > 16:
        return np.searchsorted(middle, values.reshape(-1)).astype(np.uint8).reshape(values.shape)
    # A few comparisons of whole arrays beat a binary search for each value.
    out = np.zeros(values.shape, dtype=np.uint8)
    for boundary in middle:
        out += values > boundary
    return out


def count_halves(chunks: Iterable[F32]) -> tuple[F32, npt.NDArray[np.int64]]:
    """Distinct values of all chunks, rounded to f16, in ascending order, and how often each occurs."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for chunk in chunks:
        bits = np.clip(chunk, -65504, 65504).astype("<f2").view(np.uint16).reshape(-1)
        counts += np.bincount(bits, minlength=1 << 16)
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    used = np.flatnonzero(counts)
    order = used[np.argsort(values[used], kind="stable")]
    return values[order], counts[order]


class KMeans(Solver):
    """Tables of the values that k-means finds, and the nearest entry for each weight."""

    name = "kmeans"

    def takes(self, codec: Codec) -> bool:
        return isinstance(codec, Palette)

    def shared(self, codec: Codec, chunks: Iterable[F32], statistics: Statistics) -> Made:
        if codec.lut_rows != 0:
            return {}
        # Tables hold f16 values, so counting the weights by f16 value loses next to nothing.
        values, counts = count_halves(chunks)
        return {"lut": _table(kmeans_histogram(values, counts, 1 << codec.bits))[None]}

    def solve(self, codec: Codec, rows: F32, shared: Arrays, statistics: Statistics) -> Made:
        codes = np.empty(rows.shape, dtype=np.uint8)
        if "lut" in shared:
            return {"codes": nearest(rows, shared["lut"][0].astype(np.float32))}
        tables = []
        for begin in range(0, len(rows), codec.lut_rows):
            group = rows[begin : begin + codec.lut_rows]
            tables.append(_table(kmeans_sorted(np.sort(group, axis=None), 1 << codec.bits)))
            codes[begin : begin + codec.lut_rows] = nearest(group, tables[-1].astype(np.float32))
        return {"codes": codes, "lut": np.stack(tables)}


def _table(centroids: F32) -> F16:
    return np.sort(np.clip(centroids, -65504, 65504).astype("<f2"))


register(KMeans())
