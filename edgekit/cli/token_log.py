"""Counters of the runtime token by token, for --stats."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit.errors import RuntimeFailure
from edgekit.generate.loop import TextModel

COUNTERS = (
    "generation_seconds",
    "generation_bytes_read",
    "io_wait_seconds",
    "selected",
    "neurons",
    "window_hits",
    "window_misses",
    "select_seconds",
    "read_seconds",
    "ffn_seconds",
    "manage_seconds",
    "read_operations",
)


class TokenLog:
    """What each token cost: differences of the session's counters."""

    def __init__(self, model: TextModel) -> None:
        self.model, self.rows = model, [asdict(model.stats)]
        self.tokens: list[int] = []

    def note(self, token: int) -> None:
        """After a token was generated."""
        self.tokens.append(token)
        self.rows.append(asdict(self.model.stats))

    def table(self) -> list[dict[str, Any]]:
        """A row per token."""
        pairs = zip(self.tokens, self.rows[:-1], self.rows[1:], strict=True)
        return [{"token": t, **{c: after[c] - before[c] for c in COUNTERS}} for t, before, after in pairs]

    def write(self, path: Path, report: dict[str, Any]) -> None:
        """The report and the rows as JSON.

        Raises:
            RuntimeFailure: the file cannot be written.
        """
        try:
            path.write_text(json.dumps({**report, "tokens": self.table()}, indent=1))
        except OSError as error:
            raise RuntimeFailure(f"{path}: cannot write: {error.strerror}") from error
