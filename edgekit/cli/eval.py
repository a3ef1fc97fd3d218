"""edgekit eval"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from edgekit.cli.common import cache_type_option, json_option, print_json, progress_bar, quiet_option, threads_option
from edgekit.cli.kv_policy import kv_policy_from, kv_policy_options
from edgekit.errors import ConvertError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Text to read: a plain file, or the 'text' of each line of a .jsonl; may be repeated.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Bundle or checkpoint to compare with: adds KL divergence and how often both prefer the same token.",
)
@click.option("--tokens", type=click.IntRange(2), help="Read no more than this.  [default: all]")
@click.option("--ram", help="Memory budget of MODEL, as in 400M.  [default: no limit]")
@click.option("-c", "--context", "--ctx-size", type=click.IntRange(0), default=0, help="Most tokens of a text.")
@threads_option
@cache_type_option
@kv_policy_options
@json_option
@quiet_option
def command(
    model: Path,
    text: tuple[Path, ...],
    against: Path | None,
    tokens: int | None,
    ram: str | None,
    context: int,
    threads: int,
    cache_type: str,
    as_json: bool,
    quiet: bool,
    **kv: Any,
) -> None:
    """Measure the quality of MODEL, a bundle or checkpoint, on text: perplexity, and the distance from another model.

    A checkpoint is computed in f32, by a bundle that is made for the occasion.

    \b
    Example:
      edgekit eval model.edgekit --text held-out.txt --against ./checkpoint
    """
    from edgekit.calibrate.activity import documents, token_runs
    from edgekit.evaluate.comparison import compare
    from edgekit.generate.embedding import require_writer
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.values import Options

    silent = quiet or as_json
    with _bundle(model, silent) as bundle, _bundle(against, silent) as other:
        assert bundle is not None
        options = Options(ram=ram, context=context, threads=threads, cache_type=cache_type, **kv_policy_from(kv))
        with TextModel(bundle, options) as opened:
            require_writer(opened.manifest["model"])
            length = opened.plan.context
            runs = token_runs(opened.tokenizer, documents(text), tokens or 1 << 40, length)
            total = sum(len(r) for r in runs)
            second = None if other is None else TextModel(other, Options(context=context, threads=threads))
            with progress_bar("reading", silent) as progress:
                found = compare(
                    opened.session, None if second is None else second.session, runs, total,
                    lambda ids: len(opened.tokenizer.decode(list(ids)).encode()), progress,
                )  # fmt: skip
            if second is not None:
                second.close()
    if as_json:
        print_json({"model": str(model), "against": None if against is None else str(against), **asdict(found)})
        return
    click.echo(f"perplexity  {found.perplexity:.4f}  ({found.bits_per_byte:.4f} bits per byte, {found.tokens} tokens)")
    if found.kl is not None:
        click.echo(f"against     perplexity {found.against_perplexity:.4f}")
        click.echo(f"KL          mean {found.kl:.5f}, 99% {found.kl_99:.4f}, largest {found.kl_max:.3f} nats per token")
        click.echo(f"agreement   first choice {found.top1:.2%}, first five {found.top5:.2%}")


@contextmanager
def _bundle(path: Path | None, quiet: bool) -> Iterator[Path | None]:
    """The path of a bundle, or of one that is made of a checkpoint, in f32, and deleted afterwards."""
    from edgekit.bundle.layout import MANIFEST
    from edgekit.conversion import convert

    if path is None or (path / MANIFEST).is_file():
        yield path
        return
    if not path.is_dir():
        raise ConvertError(f"{path}: is neither a bundle nor a checkpoint's folder")
    with TemporaryDirectory(prefix="edgekit-eval-") as folder:
        with progress_bar(f"reading {path.name}", quiet) as progress:
            made = convert(path, Path(folder) / "f32", "f32", progress=progress)
        yield made.path
