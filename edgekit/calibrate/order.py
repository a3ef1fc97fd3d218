"""An order of neurons in which those that fire together lie together.

Source: Ripple / Neuralink (arXiv 2410.19274): permute, do not duplicate; neighbours are then read as
one. Found greedily: each neuron is followed by the one left that fires most often with it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekit.calibrate.activity import Bools

TOKENS = 2048  # that are looked at


def coactive_order(y: Bools) -> npt.NDArray[np.int64]:
    """A permutation of neurons from their activity, bool [tokens, size].

    The likeness of two neurons is the share of tokens with both among those with either (Jaccard).
    """
    y = y[:TOKENS]
    size = y.shape[1]
    rows = y.astype(np.uint8)
    often = rows.sum(axis=0, dtype=np.int64)
    tokens_of = [np.flatnonzero(y[:, i]) for i in range(size)]
    left = often > 0
    order = np.empty(size, np.int64)
    last, count = int(np.argmax(often)), 0
    while True:
        order[count] = last
        count += 1
        left[last] = False
        if not left.any():
            break
        both = rows[tokens_of[last]].sum(axis=0, dtype=np.int64)
        likeness = np.where(left, both / (often[last] + often - both + 1e-9), -1.0)
        last = int(np.argmax(likeness))
        if likeness[last] <= 0:  # nothing fires with it: go on with the most frequent that is left
            last = int(np.argmax(np.where(left, often, -1)))
    silent = np.flatnonzero(often == 0)
    order[count:] = silent
    return order


def runs_per_token(y: Bools, order: npt.NDArray[np.int64], per_unit: int = 1) -> float:
    """Mean number of reads a token needs when neighbouring units are read as one."""
    picked = y[:, order]
    units = -(-picked.shape[1] // per_unit)
    padded = np.zeros((len(picked), units * per_unit), np.bool_)
    padded[:, : picked.shape[1]] = picked
    unit = padded.reshape(len(picked), units, per_unit).any(axis=2)
    starts = unit & ~np.pad(unit, ((0, 0), (1, 0)))[:, :-1]
    return float(starts.sum(axis=1).mean())
