"""Plots for people who would rather look than read; matplotlib, imported when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import RuntimeFailure

LABELS = 120  # names that stand below the bars of a plot at most


def check_plots() -> None:
    """Refuses a plot before the work that it would show.

    Raises:
        RuntimeFailure: matplotlib is missing.
    """
    _pyplot()


def curve(path: Path, title: str, x: str, y: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Draws lines of (x, y) points to an image file.

    Raises:
        RuntimeFailure: matplotlib is missing, or the file cannot be written.
    """
    figure, axes = _pyplot().subplots(figsize=(7, 4))
    for name, points in lines.items():
        axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=name)
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.3)
    axes.legend()
    _save(figure, path)


def panels(
    path: Path,
    x: str,
    at: Sequence[float],
    names: Sequence[str],
    drawn: Sequence[tuple[str, Sequence[float | None], bool]],
) -> None:
    """Draws named points to an image file, in panels one below the other that share their x axis.

    Args:
        path: the file.
        x: what the x axis is.
        at: x of each point.
        names: written beside the points.
        drawn: title, y of each point (None for none), and whether the axis is logarithmic, of each panel.

    Raises:
        RuntimeFailure: matplotlib is missing, or the file cannot be written.
    """
    figure, rows = _pyplot().subplots(len(drawn), 1, figsize=(7, 3.2 * len(drawn)), sharex=True, squeeze=False)
    for axes, (title, values, logarithmic) in zip(rows[:, 0], drawn, strict=True):
        for position, value, name in zip(at, values, names, strict=True):
            if value is not None:
                axes.plot([position], [value], marker="o", linestyle="none")
                axes.annotate(name, (position, value), textcoords="offset points", xytext=(5, 4), fontsize=8)
        axes.set_ylabel(title)
        axes.grid(True, alpha=0.3)
        axes.margins(0.15)  # names stand right of their points
        if logarithmic and all(value is None or value > 0 for value in values):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    rows[-1, 0].set_xlabel(x)
    _save(figure, path)


def bars(path: Path, names: Sequence[str], drawn: Sequence[tuple[str, Sequence[float], bool]]) -> None:
    """Draws a bar for each name to an image file, in panels one below the other.

    Args:
        path: the file.
        names: below the bars; so many that they would overlap are left out in part.
        drawn: title, heights, and whether the axis is logarithmic, of each panel.

    Raises:
        RuntimeFailure: matplotlib is missing, or the file cannot be written.
    """
    size = (max(7.0, min(24.0, 0.16 * len(names))), 2.6 * len(drawn) + 1)
    figure, rows = _pyplot().subplots(len(drawn), 1, figsize=size, sharex=True, squeeze=False)
    for axes, (title, heights, logarithmic) in zip(rows[:, 0], drawn, strict=True):
        axes.bar(range(len(names)), heights, width=0.9)
        axes.set_ylabel(title)
        axes.grid(True, axis="y", alpha=0.3)
        if logarithmic and any(height > 0 for height in heights):
            axes.set_yscale("log")
    step = -(-len(names) // LABELS)
    rows[-1, 0].set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=7)
    _save(figure, path)


def _pyplot() -> Any:
    try:
        import matplotlib  # type: ignore[import-not-found,unused-ignore]

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise RuntimeFailure("plots need matplotlib: pip install 'edgekit[plot]'") from error
    return pyplot


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"{path}: cannot write the plot: {error}") from error
    finally:
        _pyplot().close(figure)
