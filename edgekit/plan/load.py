"""How busy a machine is with the work of others, while something is measured on it."""

from __future__ import annotations

import os
from pathlib import Path

_FIELDS = 8  # of /proc/stat's first line: user nice system idle iowait irq softirq steal; guests are in user
_IDLE = (3, 4)


def load_average() -> float | None:
    """Runnable tasks over the last minute, ours among them; None where the system does not count them."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _cpu_seconds() -> tuple[float, float] | None:
    """Seconds of processor time used and available since the machine started, over all its cores (proc(5))."""
    try:
        ticks = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1 : 1 + _FIELDS]]
        if len(ticks) < _FIELDS:
            return None
        second = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    return (sum(ticks) - sum(ticks[i] for i in _IDLE)) / second, sum(ticks) / second


def share_of_others(used: float, available: float, own: float) -> float:
    """Share of the processors' time that other processes had, 0 to 1; all arguments in seconds."""
    return min(1.0, max(0.0, (used - own) / available)) if available > 0 else 0.0


class LoadMeter:
    """Counts from its making on."""

    def __init__(self) -> None:
        self._begin, self._own = _cpu_seconds(), self._own_seconds()

    @staticmethod
    def _own_seconds() -> float:
        times = os.times()
        return times.user + times.system

    def others(self) -> float | None:
        """Share of the machine's processor time that other processes used; None where the system does not say."""
        now = _cpu_seconds()
        if self._begin is None or now is None:
            return None
        return share_of_others(now[0] - self._begin[0], now[1] - self._begin[1], self._own_seconds() - self._own)
