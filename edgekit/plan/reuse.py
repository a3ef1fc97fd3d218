"""How often units come back: the hit rate of a window of some size, found on recorded activity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)  # of a block's units that the window holds
HALF_LIFE = 32.0  # as the runtime's window has it (runtime/src/cache/window.cpp)
TOKENS = 512


def unit_activity(rows: npt.NDArray[np.bool_], per_unit: int) -> npt.NDArray[np.bool_]:
    """Which units a token needs, bool [tokens, units], from its neurons, bool [tokens, size]."""
    units = -(-rows.shape[1] // per_unit)
    padded = np.zeros((len(rows), units * per_unit), np.bool_)
    padded[:, : rows.shape[1]] = rows
    return np.asarray(padded.reshape(len(rows), units, per_unit).any(axis=2), np.bool_)


def hit_rate(needed: npt.NDArray[np.bool_], share: float) -> float:
    """Share of needed units that were there, in the later half of the tokens, bool [tokens, units]."""
    tokens, units = needed.shape
    room = max(1, int(share * units))
    uses = np.zeros(units)
    held: npt.NDArray[np.bool_] = np.zeros(units, np.bool_)
    hits = total = 0
    for t, now in enumerate(needed):
        if 2 * t >= tokens:
            hits += int((now & held).sum())
            total += int(now.sum())
        uses *= 2 ** (-1 / HALF_LIFE)
        uses[now] += 1
        held = np.logical_or(held, now)
        excess = int(held.sum()) - room
        if excess > 0:
            candidates = np.flatnonzero(held & ~now)
            if excess < len(candidates):
                candidates = candidates[np.argpartition(uses[candidates], excess)[:excess]]
            held[candidates] = False
    return hits / total if total else 1.0


def reuse_curve(rows: npt.NDArray[np.bool_], per_unit: int = 1) -> list[tuple[float, float]]:
    """(share held, hit rate) for each of SHARES, from predicted activity, bool [tokens, size]."""
    needed = unit_activity(rows[-TOKENS:], per_unit)
    return [(share, round(hit_rate(needed, share), 4)) for share in SHARES]


def interpolate(curve: list[tuple[float, float]], share: float) -> float:
    """The hit rate at a share between those measured."""
    if share >= 1:
        return 1.0
    points = [(0.0, 0.0), *curve, (1.0, 1.0)]
    return float(np.interp(share, [p[0] for p in points], [p[1] for p in points]))
