"""Many requests of every kind at a time: the benchmark's soak, small."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from benchmarks import limits, soak


def test_every_request_is_answered_as_its_kind_calls_for_and_memory_keeps_the_limit(plain: Path) -> None:
    """The server's kinds of answers, each greedy text as it is alone, and the kernel's limit when it can be set."""
    limit = soak.OVERHEAD + soak.RAM if limits.available() else None
    report = soak.run(plain, 160, limit)
    assert report.faults == []
    answered: Counter[str] = Counter()
    for (kind, status), count in report.answers.items():
        answered[kind] += count if status in (0, 200) else 0
    assert sum(report.answers.values()) == 160
    assert all(answered[kind] for kind in ("greedy", "sampled", "chat", "schema", "stream", "left", "budget"))
    assert limit is None or 0 < report.peak <= limit
