"""edgekit export"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.common import human, json_option, print_json, progress_bar, quiet_option, refuse_flags
from edgekit.converters.kinds import KINDS

OPTIONS = ("context", "bits", "accuracy_level", "precision", "chunk")

context_option = click.option(
    "-c", "--ctx-size", "--max-context-length", "context", type=click.IntRange(1),
    help="Tokens the artifact is made for.  [default: the model's maximum, at most 4096]",
)  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", "targets", required=True, help=f"Comma-separated: {', '.join(KINDS)}.")
@context_option
@click.option(
    "--bits",
    type=click.Choice(["4", "8"]),
    help="Of weights that a format cannot hold as they are.  [default: the next that holds the codec's]",
)
@click.option(
    "--accuracy-level",
    type=click.Choice(["0", "4"]),
    help="ONNX: quantized products in f32 (0), or with activations in int8 (4), much faster.  [default: 4; exact: 0]",
)
@click.option(
    "--precision",
    type=click.Choice(["f16", "f32"]),
    default="f16",
    show_default=True,
    help="Core ML, Core AI: of the arithmetic.",
)
@click.option("--chunk", type=click.IntRange(2, 4096), default=64, show_default=True,
              help="Core ML, Core AI: tokens of one prefill call.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace artifacts that exist.")
@json_option
@quiet_option
def command(
    bundle: Path,
    targets: str,
    context: int | None,
    bits: str | None,
    accuracy_level: str | None,
    precision: str,
    chunk: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make artifacts of BUNDLE: the same model for other runtimes, in BUNDLE/artifacts.

    \b
    Examples:
      edgekit export tiny.edgekit --to onnx
      edgekit export tiny.edgekit --to coreml,mlx --ctx-size 2048
    """
    from edgekit.converters.base import Choices, parse_kinds

    check_options(parse_kinds(targets), OPTIONS)
    choices = Choices(
        context, int(bits or 0), None if accuracy_level is None else int(accuracy_level), precision, chunk
    )
    made = export_all(bundle, targets, choices, overwrite, quiet or as_json)
    if as_json:
        print_json({"bundle": str(bundle), "artifacts": made})
    elif not quiet:
        report(made)


def check_options(kinds: list[str], options: tuple[str, ...]) -> None:
    """Refuses those of the options on the command line that no kind of artifact among `kinds` has.

    Raises:
        ConvertError: there is one.
    """
    for option in options if kinds else ():
        takers = [kind for kind, described in KINDS.items() if option in described.options]
        if not set(takers) & set(kinds):
            refuse_flags((option,), f"not an option of {', '.join(kinds)}; it is of {', '.join(takers)}")


def export_all(bundle: Path, targets: str, choices: Any, overwrite: bool, hidden: bool) -> list[dict[str, Any]]:
    """Exports to every target; what was made, for people and JSON."""
    from edgekit.converters.base import export, parse_kinds

    made = []
    for kind in parse_kinds(targets):
        with progress_bar(f"exporting {kind}", hidden) as progress:
            artifact = export(bundle, kind, choices, overwrite=overwrite, progress=progress)
        made.append(
            {
                "kind": kind,
                "path": str(artifact.path),
                "bytes": artifact.bytes,
                "seconds": round(artifact.seconds, 2),
                **{k: v for k, v in artifact.about.items() if k not in ("format", "version", "kind", "files")},
            }
        )
    return made


def report(made: list[dict[str, Any]]) -> None:
    """One line for each artifact."""
    for a in made:
        lossy = f", re-quantized with {a['requantized_rms']:.2%} error" if a.get("requantized_weights") else ""
        click.echo(f"{a['path']}: {human(a['bytes'])}, {a['seconds']} s{lossy}")
