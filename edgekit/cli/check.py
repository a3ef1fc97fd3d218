"""edgekit check"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.common import human, json_option, print_json, progress_bar, quiet_option

if TYPE_CHECKING:
    from edgekit.converters.check import Verdict


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--to", "targets", default="", help="Only these artifacts, comma-separated.  [default: all]")
@click.option("-n", "--tokens", type=click.IntRange(2, 4096), default=48, show_default=True,
              help="Tokens to compare, half of them generated.")  # fmt: skip
@click.option("--against", type=click.Path(path_type=Path), help="PATH is an ONNX graph: compare it with this one.")
@click.option("--input", "inputs", type=click.Path(path_type=Path), help="With --against: inputs by name, a .npz file.")
@json_option
@quiet_option
def command(
    path: Path, targets: str, tokens: int, against: Path | None, inputs: Path | None, as_json: bool, quiet: bool
) -> None:
    """Prove that the artifacts of a bundle compute what the native runtime computes.

    Each is run on this machine: ONNX by onnxruntime, MLX by MLX, Core ML by an interpreter of its own.
    Fails when one that keeps all weights differs by more than rounding explains.

    \b
    Examples:
      edgekit check tiny.edgekit
      edgekit check smaller.onnx --against detector.onnx
    """
    if against is not None:
        _graphs(path, against, inputs, as_json)
        return
    from edgekit.converters.base import parse_kinds
    from edgekit.converters.check import check

    with progress_bar("checking", quiet or as_json) as progress:
        found = check(path, parse_kinds(targets), tokens, lambda kind, done, total: progress(done, total))
    if as_json:
        print_json({"path": str(path), "artifacts": [{**asdict(v), "ok": v.ok} for v in found]})
    elif not quiet:
        _table(found)
    if not all(v.ok for v in found):
        raise click.ClickException("an artifact does not compute what the bundle computes; export it again")


def _table(found: list[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in (
        "artifact",
        "size",
        "bits/weight",
        "max |Δ logit|",
        "relative",
        "top-1",
        "greedy text",
        "re-quantized",
    ):
        table.add_column(name, justify="left" if name == "artifact" else "right")
    for v in found:
        ran = v.difference is not None and v.relative is not None
        table.add_row(
            v.kind if v.ok else f"[red]{v.kind}[/red]",
            human(v.bytes),
            f"{v.bits_per_weight:.2f}",
            f"{v.difference:.2g}" if ran else "-",
            f"{v.relative:.1e}" if ran else "-",
            "-" if v.top1 is None else f"{v.top1:.1%}",
            "-" if v.same_text is None else "same" if v.same_text else "differs",
            f"{v.requantized:.2%}" if v.requantized else "no",
        )
    Console(width=110).print(table)
    for v in found:
        if v.note:
            click.echo(f"{v.kind}: {v.note}")


def _graphs(path: Path, against: Path, inputs: Path | None, as_json: bool) -> None:
    """Two ONNX graphs on the same inputs."""
    import numpy as np

    from edgekit.converters.base import load

    given = None
    if inputs is not None:
        try:
            with np.load(inputs, allow_pickle=False) as stored:
                given = dict(stored)
        except (OSError, ValueError) as error:
            raise click.UsageError(f"{inputs}: cannot be read as a .npz file ({error}).") from error
    found = load("onnx", "graphs.convert").compare(against, path, given)
    if as_json:
        print_json({"path": str(path), "against": str(against), "outputs": [asdict(d) for d in found]})
        return
    for d in found:
        click.echo(f"{d.output}: largest difference {d.largest:.3g}, relative {d.relative_rms:.2%}")
