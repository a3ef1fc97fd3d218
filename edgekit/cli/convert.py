"""edgekit convert"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import human, json_option, print_json, progress_bar, quiet_option, refuse_flags
from edgekit.cli.export import check_options, context_option, export_all, report
from edgekit.errors import ConvertError

# Options of language models only, and those of them that need others.
if TYPE_CHECKING:
    from edgekit.conversion import Conversion

LEARNING = ("calibration_tokens", "gradients", "predictor", "keep_order", "false_negatives")
OF_MODELS = (
    "target_bpw",
    "target_size",
    "target_speed",
    "ram",
    "plot",
    "revision",
    "threads",
    "cluster",
    "lora",
    "layout",
    "unit_size",
    "calibration",
    "self_calibration",
    *LEARNING,
    "targets",
    "context",
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint")
@click.option("-o", "--output", "out", required=True, help="Bundle to make; '.edgekit' is appended if missing.")
@click.option(
    "--recipe",
    help="Preset (f32, f16, bf16, q8, q4, scaled8/6/5/4/3/2, trellis4/3/2, palette8/6/4/3/2/1), TOML file, or 'keep': "
    "what the checkpoint has quantized stays as it is.  [default: scaled4; keep for GGUF]",
)
@click.option("--method", help="Instead of a recipe: scaled_palette, trellis, affine, palette, f16, bf16 or f32.")
@click.option("--bits", "--q-bits", type=int, help="Instead of a recipe: bits per weight.")
@click.option(
    "--group-size", "--q-group-size", type=int, help="With --method: columns per scale (affine) or rows per table."
)
@click.option(
    "--target-bpw",
    type=click.FloatRange(1, 16),
    help="Instead of a recipe: bits per weight, allocated where they matter (measured with --calibration).",
)
@click.option("--target-size", help="Instead of a recipe: bytes of the bundle's weights, as in 300M.")
@click.option(
    "--target-speed",
    type=click.FloatRange(min=0, min_open=True),
    help="Instead of a recipe: tokens per second that this device shall write at least, by its profile "
    "(edgekit profile); the closest model that is so fast.",
)
@click.option("--ram", help="With --target-speed: the budget that it shall be so fast within, as in 2G.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="With a target: draw what each tensor got (needs matplotlib)."
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("-t", "--threads", type=click.IntRange(1, 256), help="Tensors encoded at once.  [default: all cores]")
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Have the workers of a Dask cluster encode the tensors: its scheduler, as in tcp://HOST:8786. They must see "
    "the checkpoint under the same path. Needs edgekit[cluster].",
)
@click.option(
    "--layout",
    type=click.Choice(["auto", "bundle", "split"]),
    default="auto",
    show_default=True,
    help="'split' keeps what decides whether a neuron is active apart (for exact and threshold selection).",
)
@click.option("--unit-size", help="Bytes of feed-forward units, as in 16K.  [default: by the layout]")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Text file to learn from: order of neurons, cuts for threshold selection; may be repeated.",
)
@click.option(
    "--self-calibration",
    is_flag=True,
    help="Without text: learn from texts that the model itself writes, --calibration-tokens long in all.",
)
@click.option("--calibration-tokens", type=click.IntRange(256), default=8192, show_default=True)
@click.option(
    "--gradients",
    is_flag=True,
    help="With --calibration: learn from backward passes how much each output matters. Trellis codes come closer to the"
    " original. Needs edgekit[train].",
)
@click.option("--predictor", is_flag=True, help="With --calibration: train predictors of active neurons.")
@click.option("--lora", type=click.Path(path_type=Path), help="Folder of a PEFT adapter to merge into the weights.")
@click.option("--text-only", is_flag=True, help="Leave out what the model sees pictures with.")
@click.option("--keep-order", is_flag=True, help="With --calibration: do not permute neurons.")
@click.option(
    "--false-negatives",
    type=click.FloatRange(0.0001, 0.5),
    default=0.05,
    show_default=True,
    help="Share of active neurons that a predictor may miss.",
)
@click.option("--to", "targets", default="native", show_default=True,
              help="Also make artifacts, comma-separated; see 'edgekit export'.")  # fmt: skip
@context_option
@click.option("--overwrite", is_flag=True, help="Replace the bundle if it exists.")
@json_option
@quiet_option
def command(
    checkpoint: str,
    out: str,
    recipe: str | None,
    method: str | None,
    bits: int | None,
    group_size: int | None,
    target_bpw: float | None,
    target_size: str | None,
    target_speed: float | None,
    ram: str | None,
    plot: Path | None,
    revision: str | None,
    threads: int | None,
    cluster: str | None,
    layout: str,
    unit_size: str | None,
    calibration: tuple[Path, ...],
    self_calibration: bool,
    calibration_tokens: int,
    gradients: bool,
    lora: Path | None,
    text_only: bool,
    predictor: bool,
    keep_order: bool,
    false_negatives: float,
    targets: str,
    context: int | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Convert CHECKPOINT (a folder, a GGUF file or a hub id) to a bundle, or an ONNX file to a smaller one.

    Tensors are streamed: memory stays small whatever the model's size. An interrupted conversion goes
    on where it stopped when the same command is run again.

    \b
    Examples:
      edgekit convert ./TinyLlama-1.1B -o tiny.edgekit
      edgekit convert ./TinyLlama-1.1B -o tiny-q4 --recipe q4
      edgekit convert ./TinyLlama-1.1B -o tiny-p3 --method palette --bits 3
      edgekit convert ./TinyLlama-1.1B -o tiny --target-size 500M --calibration text.txt
      edgekit convert ./TinyLlama-1.1B -o tiny --recipe trellis3 --calibration text.txt --gradients
      edgekit convert ./TinyLlama-1.1B -o tiny --to native,coreml,onnx,mlx
      edgekit convert model-Q4_0.gguf -o model.edgekit
      edgekit convert detector.onnx -o smaller.onnx --method palette --bits 6
      edgekit convert ./ReluLlama-7B -o relu.edgekit --predictor --calibration text.txt
    """
    from edgekit.calibrate.calibration import Calibration
    from edgekit.calibrate.target import Target
    from edgekit.cli.allocation import allocation_lines, draw_allocation
    from edgekit.cli.plots import check_plots
    from edgekit.conversion import convert
    from edgekit.converters.base import Choices, load, parse_kinds
    from edgekit.recipe.allocation import METHODS
    from edgekit.sizes import parse_bytes

    if checkpoint.endswith(".onnx"):
        refuse_flags(OF_MODELS, "for language models only, not for an ONNX graph; leave it out")
        _graph(Path(checkpoint), Path(out), (recipe, method, bits, group_size), overwrite, quiet, as_json)
        return
    wanted = (target_bpw, target_size, target_speed)
    if sum(value is not None for value in wanted) > 1:
        raise ConvertError("give one of --target-bpw, --target-size and --target-speed")
    if target_speed is None:
        refuse_flags(("ram",), "of --target-speed only; edgekit run takes a budget, too")
    sized = wanted != (None,) * 3
    target = (
        Target(
            target_bpw, parse_bytes(target_size) or None, method or METHODS[0], target_speed, parse_bytes(ram) or None
        )
        if sized
        else None
    )
    if not sized:
        refuse_flags(("plot",), "of --target-bpw, --target-size and --target-speed only")
    elif plot is not None:
        check_plots()
    kinds = parse_kinds(targets)
    if calibration and self_calibration:
        raise ConvertError("give text with --calibration, or let the model write it with --self-calibration, not both")
    if not calibration and not self_calibration:
        refuse_flags(LEARNING, "learned from text; give some with --calibration FILE")
    if not predictor:
        refuse_flags(("false_negatives",), "of predictors only; add --predictor")
    if not kinds:
        refuse_flags(("context",), "of artifacts only; name one with --to")
    check_options(kinds, ("context",))
    for kind in kinds:  # a package that is missing is told before the work, not after
        load(kind)
    learn = Calibration(
        calibration,
        calibration_tokens,
        predictor=predictor,
        order=not keep_order,
        false_negatives=false_negatives,
        gradients=gradients,
        samples=self_calibration,
    )
    with progress_bar("converting", quiet or as_json) as progress:
        done = convert(
            checkpoint,
            out,
            recipe,
            method=None if sized else method,
            bits=bits,
            group_size=group_size,
            revision=revision,
            threads=threads,
            cluster=cluster,
            overwrite=overwrite,
            layout=layout,
            unit_size=parse_bytes(unit_size) or None,
            target=target,
            calibration=learn if calibration or self_calibration else None,
            lora=lora,
            text_only=text_only,
            progress=progress,
            note=lambda what, done, total: progress(done, total),
            warn=lambda line: click.echo(f"edgekit: warning: {line}", err=True),
        )
    made = []
    saved = _save_recipe(done)
    if plot is not None:
        draw_allocation(plot, done.allocation)
    if kinds:
        made = export_all(done.path, targets, Choices(context=context), True, quiet or as_json)
    if as_json:
        print_json({**asdict(done), "path": str(done.path), "artifacts": made})
    elif not quiet:
        if done.restarted:
            click.echo("an unfinished conversion of another source or recipe was discarded", err=True)
        resumed = f", {done.resumed} tensors were done already" if done.resumed else ""
        click.echo(
            f"{done.path}: {done.parameters / 1e6:.1f}M weights, {human(done.bundle_bytes)}, "
            f"{done.bits_per_weight:.2f} bits per weight ({done.recipe}), {done.seconds:.1f} s{resumed}"
        )
        if done.allocation:
            click.echo("\n".join(allocation_lines(done.allocation)))
        if done.expected_tokens_per_second is not None:
            click.echo(f"expected    {done.expected_tokens_per_second:.1f} tok/s{f' within {ram}' if ram else ''}")
        if saved is not None:
            click.echo(f"{saved}: the recipe that was made; edit it, and give it as --recipe")
        if done.losses is not None and done.losses.line():
            click.echo(done.losses.line())
        report(made)


def _save_recipe(done: Conversion) -> Path | None:
    """Writes a recipe that was made for a target size beside the bundle."""
    if done.made_recipe is None:
        return None
    path = done.path.with_suffix(".recipe.toml")
    try:
        path.write_text(done.made_recipe)
    except OSError as error:
        raise ConvertError(f"{path}: cannot write the recipe: {error.strerror}; the bundle is whole") from error
    return path


def _graph(source: Path, out: Path, wanted: tuple[Any, ...], overwrite: bool, quiet: bool, as_json: bool) -> None:
    """Any ONNX graph."""
    from edgekit.converters.base import load

    graphs = load("onnx", "graphs.convert")
    done = graphs.compress(source, out, graphs.scheme_from(*wanted), overwrite=overwrite)
    if as_json:
        print_json({**asdict(done), "path": str(done.path)})
    elif not quiet:
        if done.checked_by == "onnx.checker":
            click.echo("onnxruntime is missing or cannot open the source, so only the structure was checked", err=True)
        click.echo(
            f"{done.path}: {done.weights / 1e6:.2f}M weights of {done.tensors} tensors, {human(done.bytes_before)} to "
            f"{human(done.bytes_after)}, {done.relative_rms:.2%} error"
        )
