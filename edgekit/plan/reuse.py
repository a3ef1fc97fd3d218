"""How often units come back: the hit rate of a window of some size, found on recorded activity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)  # of all blocks' units that the window holds
HALF_LIFE = 32.0  # these two as the runtime's window has them (runtime/src/cache/window.cpp)
SAMPLE = 16
TOKENS = 256

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Curve = list[tuple[float, float]]  # (share held, hit rate)


def unit_activity(rows: Bools, per_unit: int) -> Bools:
    """Which units a token needs, bool [tokens, units], from its neurons, bool [tokens, size]."""
    units = -(-rows.shape[1] // per_unit)
    padded = np.zeros((len(rows), units * per_unit), np.bool_)
    padded[:, : rows.shape[1]] = rows
    return np.asarray(padded.reshape(len(rows), units, per_unit).any(axis=2), np.bool_)


class _Window:
    """The runtime's window: slots that all blocks share, the least used of some random ones makes room."""

    def __init__(self, units: int, slots: int) -> None:
        self.slot_of = np.full(units, -1)
        self.unit_in = np.full(slots, -1)
        self.uses = np.zeros(units)  # as of `last`
        self.last = np.zeros(units, np.int64)  # token
        self.pinned = np.zeros(slots, np.bool_)
        self.free = slots
        self.rng = np.random.default_rng(0)

    def need(self, units: Ints, token: int) -> int:
        """A block needs these units at once; returns how many were there."""
        self.pinned[:] = False
        here = self.slot_of[units] >= 0
        self.pinned[self.slot_of[units[here]]] = True
        self.uses[units] = self._scores(units, token) + 1
        self.last[units] = token
        missing = units[~here]
        while len(missing):
            slots = self._room(len(missing), token)
            if not len(slots):  # the rest has a round of its own, which evicts what was needed before it
                self.pinned[:] = False
                continue
            self.unit_in[slots], self.slot_of[missing[: len(slots)]] = missing[: len(slots)], slots
            self.pinned[slots] = True
            missing = missing[len(slots) :]
        return int(here.sum())

    def _scores(self, units: Ints, token: int) -> npt.NDArray[np.float64]:
        return np.asarray(self.uses[units] * 2.0 ** ((self.last[units] - token) / HALF_LIFE))

    def _room(self, count: int, token: int) -> Ints:
        """Up to `count` slots that are free now; none when everything is pinned."""
        if self.free:
            first = len(self.unit_in) - self.free
            self.free -= min(count, self.free)
            return np.arange(first, len(self.unit_in) - self.free)
        open_slots = np.flatnonzero(~self.pinned)
        if not len(open_slots):
            return open_slots
        sample = open_slots[self.rng.integers(0, len(open_slots), (count, SAMPLE))]
        worst = self._scores(self.unit_in[sample], token).argmin(axis=1)
        slots = np.unique(sample[np.arange(count), worst])
        self.slot_of[self.unit_in[slots]] = -1
        return slots


def hit_rates(needed: Sequence[Bools], share: float) -> list[float]:
    """Per block, the share of needed units that were there, in the later half of the tokens.

    Args:
        needed: units that tokens need, bool [tokens, units] for each block.
        share: of all their units that the window holds.
    """
    first = np.cumsum([0, *(n.shape[1] for n in needed)])
    tokens = min(len(n) for n in needed)
    window = _Window(int(first[-1]), max(1, int(share * first[-1])))
    hits, total = np.zeros(len(needed)), np.zeros(len(needed))
    for t in range(tokens):
        for block, rows in enumerate(needed):
            units = np.flatnonzero(rows[t])
            found = window.need(units + first[block], t)
            if 2 * t >= tokens:
                hits[block] += found
                total[block] += len(units)
    return [float(h / n) if n else 1.0 for h, n in zip(hits, total, strict=True)]


def reuse_curves(needed: Sequence[Bools], progress: Callable[[int, int], None] | None = None) -> list[Curve]:
    """(share held, hit rate) of each block for each of SHARES, when they share one window.

    `progress`: called with (shares done, of all); half a minute for the neurons of a model of 7B weights.
    """
    if not needed:
        return []
    rates: list[list[float]] = []
    for share in SHARES:
        if progress is not None:
            progress(len(rates), len(SHARES))
        rates.append(hit_rates([n[-TOKENS:] for n in needed], share))
    return [
        [(share, round(r[block], 4)) for share, r in zip(SHARES, rates, strict=True)] for block in range(len(needed))
    ]


def interpolate(curve: Curve, share: float) -> float:
    """The hit rate at a share between those measured."""
    if share >= 1:
        return 1.0
    points = [(0.0, 0.0), *curve, (1.0, 1.0)]
    return float(np.interp(share, [p[0] for p in points], [p[1] for p in points]))
