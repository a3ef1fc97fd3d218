"""What each tensor got when bits were fitted into a target: a table by kind of tensor, and a plot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgekit.recipe.allocation import Allocated

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def allocation_lines(rows: Sequence[Allocated]) -> list[str]:
    """A line for each kind of tensor, in the order of the model: its weights, bits, and share of the expected loss."""
    kinds: dict[str, list[Allocated]] = {}
    for row in rows:
        kinds.setdefault(_NUMBER.sub("*", row.tensor), []).append(row)
    width = max(map(len, kinds), default=0)
    lines = [f"{'tensors':<{width}}{'weights':>10}{'bits':>8}{'fewest':>8}{'most':>6}{'of the loss':>13}"]
    for kind, found in kinds.items():
        weights = sum(row.weights for row in found)
        mean = sum(row.bits_per_weight * row.weights for row in found) / weights
        bits = [row.bits_per_weight for row in found]
        loss = sum(row.loss for row in found)
        lines.append(
            f"{kind:<{width}}{weights / 1e6:>9.2f}M{mean:>8.2f}{min(bits):>8.2f}{max(bits):>6.2f}{loss:>12.1%}"
        )
    return lines


def draw_allocation(path: Path, rows: Sequence[Allocated]) -> None:
    """Draws the bits of each tensor and how much it matters, in the order of the model.

    Raises:
        RuntimeFailure: matplotlib is missing, or the file cannot be written.
    """
    from edgekit.cli.plots import bars

    names = [row.tensor for row in rows]
    bars(
        path,
        names,
        [
            ("bits per weight", [row.bits_per_weight for row in rows], False),
            ("sensitivity (mean is 1)", [row.sensitivity for row in rows], True),
            ("share of the expected loss", [row.loss for row in rows], False),
        ],
    )
