"""edgekit compare"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from edgekit.cli.common import human, json_option, print_json, progress_bar, quiet_option, refuse_flags, threads_option
from edgekit.errors import ConvertError

if TYPE_CHECKING:
    from edgekit.compare import Row


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint")
@click.option("--recipes", default="", help="Presets and TOML files, comma-separated; see 'edgekit convert'.")
@click.option("--target-bpw", type=click.FloatRange(1, 16), multiple=True,
              help="Also bits per weight that are allocated where they matter; may be repeated.")  # fmt: skip
@click.option("--method", help="With --target-bpw: of which method.  [default: scaled_palette]")
@click.option("--text", type=click.Path(path_type=Path), multiple=True, required=True,
              help="Text that quality is measured on, as for 'edgekit eval'; may be repeated.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(64), default=4096, show_default=True, help="Of the text, at most.")
@click.option("--calibration", type=click.Path(path_type=Path), multiple=True,
              help="Text that all of them learn from; not the text that they are measured on.")  # fmt: skip
@click.option("--calibration-tokens", type=click.IntRange(256), default=8192, show_default=True)
@click.option("--ram", help="Budget under which speed is measured too, as in 400M.")
@click.option("-n", "--n-gen", "generate", type=click.IntRange(0), default=32, show_default=True,
              help="Tokens written to measure speed; 0: do not measure it.")  # fmt: skip
@click.option("-r", "--repetitions", type=click.IntRange(1), default=3, show_default=True)
@threads_option
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path),
              help="Folder that keeps the bundles; an interrupted comparison goes on there.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="With -o: replace bundles of other settings.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw quality and speed against size (needs matplotlib).")
@json_option
@quiet_option
def command(
    checkpoint: str,
    recipes: str,
    target_bpw: tuple[float, ...],
    method: str | None,
    text: tuple[Path, ...],
    tokens: int,
    calibration: tuple[Path, ...],
    calibration_tokens: int,
    ram: str | None,
    generate: int,
    repetitions: int,
    threads: int,
    folder: Path | None,
    overwrite: bool,
    plot: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert CHECKPOINT by several recipes and set them side by side: size, distance from the original, speed, time.

    Speeds are medians of rounds in which each bundle has a turn. A recipe that fails has its reason in its row,
    the others go on, and the exit status is 1.

    \b
    Examples:
      edgekit compare ./checkpoint --recipes q4,scaled4,trellis3 --text held-out.txt --plot sizes.svg
      edgekit compare ./checkpoint --recipes scaled3 --target-bpw 3.25 --text held-out.txt --calibration text.txt
    """
    from edgekit.calibrate.calibration import Calibration
    from edgekit.cli.plots import check_plots, panels
    from edgekit.compare import Measuring, compare_recipes, parse_candidates
    from edgekit.recipe.allocation import METHODS
    from edgekit.sizes import parse_bytes

    if not target_bpw:
        refuse_flags(("method",), "of --target-bpw only; recipes name their methods")
    if not calibration:
        refuse_flags(("calibration_tokens",), "learned from text; give some with --calibration FILE")
    if folder is None:
        refuse_flags(("overwrite",), "of a folder that is kept only; name it with -o")
    if plot is not None:
        check_plots()
    parse_bytes(ram)
    candidates = parse_candidates(recipes, target_bpw, method or METHODS[0])
    measuring = Measuring(text, tokens, ram, generate, repetitions, threads)
    learn = Calibration(calibration, calibration_tokens) if calibration else None
    with _place(folder) as place, progress_bar("comparing", quiet or as_json) as progress:
        rows = compare_recipes(
            checkpoint, candidates, place, measuring, learn, overwrite, lambda _, done, total: progress(done, total)
        )
    if plot is not None:
        _draw(plot, rows, panels)
    if as_json:
        print_json({"checkpoint": checkpoint, "ram": ram, "rows": [asdict(row) for row in rows]})
    else:
        click.echo(_table(rows, ram))
    if any(row.error is not None for row in rows):
        raise click.exceptions.Exit(1)


@contextmanager
def _place(folder: Path | None) -> Iterator[Path]:
    """The folder for the bundles, made if it is not there, or one that is deleted afterwards."""
    if folder is None:
        with TemporaryDirectory(prefix="edgekit-compare-") as temporary:
            yield Path(temporary)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConvertError(f"{folder}: cannot be the folder for the bundles: {error.strerror}") from error
    yield folder


def _table(rows: list[Row], ram: str | None) -> str:
    """The rows in Markdown, a dash for what was not measured; reasons below it."""
    heads = ("recipe", "size", "bits", "KL", "KL 99%", "same first", "perplexity", "prompt tok/s", "tok/s",
             *((f"tok/s in {ram}",) if ram else ()), "convert")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    reasons = []
    for row in rows:
        cells = [
            row.recipe,
            _cell(row.bundle_bytes, human),
            _cell(row.bits_per_weight, "{:.2f}".format),
            _cell(row.kl, "{:.4f}".format),
            _cell(row.kl_99, "{:.3f}".format),
            _cell(row.top1, "{:.1%}".format),
            _cell(row.perplexity, "{:.3f}".format),
            _cell(row.prompt_tokens_per_second, "{:.1f}".format),
            _cell(row.tokens_per_second, "{:.1f}".format),
            *((_cell(row.budget_tokens_per_second, "{:.1f}".format),) if ram else ()),
            _cell(row.convert_seconds, "{:.1f} s".format),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        reasons += [f"{row.recipe}: {reason}" for reason in (row.error, row.budget_error) if reason is not None]
    return "\n".join([*lines, *reasons])


def _cell(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _draw(path: Path, rows: list[Row], panels: Callable[..., None]) -> None:
    """Quality and speed against size."""
    good = [row for row in rows if row.bundle_bytes is not None]
    sizes = [(row.bundle_bytes or 0) / 2**20 for row in good]
    names = [row.recipe for row in good]
    drawn = [("KL from the original", [row.kl for row in good], True)]
    for title, values in (
        ("tok/s in memory", [row.tokens_per_second for row in good]),
        ("tok/s within the budget", [row.budget_tokens_per_second for row in good]),
    ):
        if any(value is not None for value in values):
            drawn.append((title, values, False))
    panels(path, "MiB", sizes, names, drawn)
