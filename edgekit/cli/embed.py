"""edgekit embed"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from edgekit.cli.common import (
    UTF8,
    activations_option,
    context_option,
    json_option,
    quiet_option,
    threads_option,
    waiting,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("texts", type=UTF8, nargs=-1, metavar="[TEXT]...")
@click.option(
    "-f", "--file", "text_file", type=click.Path(path_type=Path), help="One text on each line of a file ('-': stdin)."
)
@click.option("--prompt-name", type=UTF8, help="Put this prompt of the model before each text, as 'query'.")
@click.option(
    "--normalize/--no-normalize", default=None, help="Divide vectors by their length.  [default: as the model says]"
)
@click.option("--dimensions", type=click.IntRange(1), help="Only the first N numbers of each vector.  [default: all]")
@click.option(
    "--pooling",
    type=click.Choice(["cls", "mean", "max", "last"]),
    help="How the tokens of a text become one vector.  [default: as the model says; 'last' of one that writes]",
)
@click.option("--ram", help="Hard memory budget of the runtime, as in 400M.  [default: all that is needed]")
@context_option("Most tokens of a text.  [default: the model's]")
@threads_option
@activations_option
@json_option
@quiet_option
def command(
    bundle: Path, texts: tuple[str, ...], text_file: Path | None, as_json: bool, quiet: bool, **flags: Any
) -> None:
    """Make a vector of each TEXT with BUNDLE, within --ram.

    BUNDLE holds an encoder, or any model: of one that writes, the hidden state of the last token is taken. Vectors are
    printed one on a line; with --json as an object. Texts that are too long are cut.

    \b
    Examples:
      edgekit embed minilm.edgekit "A cat sat on the mat."
      edgekit embed minilm.edgekit --file sentences.txt --json
      edgekit embed e5.edgekit --prompt-name query "Where did the cat sit?"
    """
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.values import Options

    given = [*texts, *lines_of(text_file)]
    if not given:
        raise click.UsageError("Give texts, or a file with -f.")
    options = Options(
        ram=flags["ram"], context=flags["context"], threads=flags["threads"], activations=flags["activations"]
    )
    with waiting(f"loading {bundle}", quiet or as_json):
        model = TextModel(bundle, options)
    with model:
        vectors = model.embed(
            given,
            flags["prompt_name"],
            flags["normalize"],
            flags["dimensions"],
            flags["pooling"],
            warn=None if quiet else print_warning,
        )
        stats = model.stats
    rows = [[float(f"{x:.9g}") for x in row] for row in vectors.tolist()]
    if as_json:
        figures = {
            "embeddings": rows,
            "dimensions": vectors.shape[1],
            "tokens": stats.prompt_tokens,
            "seconds": round(stats.prompt_seconds, 4),
            "peak_memory_bytes": stats.peak_memory_bytes,
        }
        click.echo(json.dumps(figures))  # on one line: a vector has hundreds of numbers
        return
    for row in rows:
        click.echo(" ".join(f"{x:.6g}" for x in row))


def lines_of(path: Path | None) -> list[str]:
    """The lines of a text file, without empty ones; none without a file."""
    if path is None:
        return []
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        return [line for line in data.decode("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path}: not UTF-8 at byte {error.start}; convert it, as with iconv.") from error


def print_warning(line: str) -> None:
    """A warning on stderr."""
    click.echo(f"warning: {line}", err=True)
