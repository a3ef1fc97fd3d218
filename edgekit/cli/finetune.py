"""edgekit finetune"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgekit.cli.common import json_option, print_json, progress_bar, quiet_option
from edgekit.errors import ConvertError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Bundle to make.")
@click.option(
    "--text", type=click.Path(path_type=Path), multiple=True, required=True, help="Text to tune on; may be repeated."
)
@click.option("--held-out", type=click.Path(path_type=Path), multiple=True, help="Text to measure on.")
@click.option("--steps", type=click.IntRange(0), default=400, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Texts of a step.")
@click.option("--max-tokens", type=click.IntRange(16), default=512, show_default=True, help="Of a text.")
@click.option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    default=0.02,
    show_default=True,
    help="Relative to the size of what is trained.",
)
@click.option("--keep-codes", is_flag=True, help="Train scales, tables, norms and biases only.")
@click.option(
    "--search-every",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Steps between searches for the codes of a trellis.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@json_option
@quiet_option
def command(
    checkpoint: Path,
    bundle: Path,
    out: Path,
    text: tuple[Path, ...],
    held_out: tuple[Path, ...],
    steps: int,
    batch_size: int,
    max_tokens: int,
    learning_rate: float,
    keep_codes: bool,
    search_every: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train BUNDLE, which 'edgekit convert' made of CHECKPOINT, to predict what CHECKPOINT predicts.

    The result has the same size and is closer to the original. Matrices in trellis and scaled_palette are trained, and
    norms and biases; other matrices stay. An interrupted call goes on when the same command is run again. Needs
    edgekit[train].

    \b
    Example:
      edgekit convert ./TinyStories -o small --recipe trellis2 --calibration text.txt --gradients
      edgekit finetune ./TinyStories small.edgekit -o better --text text.txt --steps 1000
    """
    try:
        from edgekit.train.finetune import Tuning, finetune
    except ImportError as error:
        raise ConvertError(f"finetune needs {error.name}: pip install 'edgekit[train]'") from error

    tuning = Tuning(
        steps, batch_size, max_tokens, learning_rate, codes=not keep_codes, search_every=search_every, seed=seed
    )
    with progress_bar("tuning", quiet or as_json) as progress:
        done = finetune(
            checkpoint, bundle, out, text, tuning, held_out=held_out, overwrite=overwrite, progress=progress
        )
    if as_json:
        print_json({**asdict(done), "path": str(done.path)})
    elif not quiet:
        click.echo(
            f"{done.path}: KL {done.before:.4f} -> {done.after:.4f} nats per token after {done.steps} steps, "
            f"{done.seconds:.0f} s"
        )
