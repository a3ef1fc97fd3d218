"""edgekit relufy"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgekit.cli.common import json_option, print_json, progress_bar, quiet_option
from edgekit.errors import ConvertError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Checkpoint to make.")
@click.option(
    "--text", type=click.Path(path_type=Path), multiple=True, required=True, help="Text to tune on; may be repeated."
)
@click.option("--held-out", type=click.Path(path_type=Path), multiple=True, help="Text to evaluate on.")
@click.option(
    "--activation",
    type=click.Choice(["relu", "shifted", "threshold", "drelu"]),
    default="relu",
    show_default=True,
    help="What replaces the activation.",
)
@click.option("--threshold", type=float, default=0.0, show_default=True, help="Of threshold; shift of shifted.")
@click.option("--stage", type=click.IntRange(1, 2), default=1, show_default=True, help="2 adds ReLU after the norms.")
@click.option("--steps", type=click.IntRange(0), default=400, show_default=True, help="Of fine-tuning.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--learning-rate", type=float, default=3e-4, show_default=True)
@click.option(
    "--sparsity-weight", type=click.FloatRange(0), default=0.0, show_default=True, help="Pushes activations to zero."
)
@click.option("--max-tokens", type=click.IntRange(16), default=256, show_default=True, help="Of a sequence.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
@json_option
@quiet_option
def command(
    checkpoint: Path,
    out: Path,
    text: tuple[Path, ...],
    held_out: tuple[Path, ...],
    activation: str,
    threshold: float,
    stage: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    sparsity_weight: float,
    max_tokens: int,
    seed: int,
    device: str,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make CHECKPOINT sparse: ReLU instead of its activation, then a short fine-tune.

    The fine-tune imitates the original's distributions. An interrupted one goes on when the same command
    is run again. Needs edgekit[train].

    \b
    Examples:
      edgekit relufy ./TinyStories-3M -o ./TinyStories-3M-relu --text stories.jsonl
      edgekit relufy ./Llama -o ./Llama-drelu --text text.txt --activation drelu --stage 2
    """
    try:
        from edgekit.train.relufy import Tuning, relufy
        from edgekit.train.surgery import Surgery
    except ImportError as error:
        raise ConvertError(f"relufy needs {error.name}: pip install 'edgekit[train]'") from error

    surgery = Surgery(activation, threshold, stage == 2)
    tuning = Tuning(steps, batch_size, max_tokens, learning_rate, sparsity_weight, seed=seed, device=device)
    with progress_bar("tuning", quiet or as_json) as progress:
        done = relufy(checkpoint, out, text, surgery, tuning, held_out=held_out, overwrite=overwrite, progress=progress)
    if as_json:
        print_json({**asdict(done), "path": str(done.path)})
    elif not quiet:
        click.echo(
            f"{done.path}: perplexity {done.original:.3f} -> {done.before.perplexity:.3f} after the surgery "
            f"-> {done.after.perplexity:.3f} after {done.steps} steps, {done.seconds:.0f} s"
        )
        click.echo("zeros per block: " + " ".join(f"{s:.1%}" for s in done.after.sparsity))
