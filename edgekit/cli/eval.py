"""edgekit eval"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import (
    cache_type_option,
    json_option,
    print_json,
    progress_bar,
    quiet_option,
    refuse_flags,
    threads_option,
)
from edgekit.cli.kv_policy import kv_policy_from, kv_policy_options
from edgekit.errors import ConvertError

if TYPE_CHECKING:
    from edgekit.evaluate.comparison import Comparison
    from edgekit.evaluate.tasks import Question, TaskResult
    from edgekit.runtime.values import Options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Text to read: a plain file, or the 'text' of each line of a .jsonl; may be repeated.",
)
@click.option(
    "--tasks",
    help="Multiple choice tasks, comma-separated: arc_easy, arc_challenge, hellaswag, piqa, winogrande; scored as "
    "lm-evaluation-harness does, without examples.",
)
@click.option(
    "--task-dir",
    type=click.Path(path_type=Path),
    default=Path(),
    help="With --tasks: the folder of the data sets' lines, as TASK.jsonl.  [default: the current one]",
)
@click.option("--limit", type=click.IntRange(1), help="With --tasks: the first so many questions of each.")
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
    tasks: str | None,
    task_dir: Path,
    limit: int | None,
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
    """Measure the quality of MODEL, a bundle or checkpoint: perplexity on text and the distance from another model, or
    answers to multiple choice questions.

    A checkpoint is computed in f32, by a bundle that is made for the occasion.

    \b
    Examples:
      edgekit eval model.edgekit --text held-out.txt --against ./checkpoint
      edgekit eval model.edgekit --tasks arc_easy,piqa --task-dir ./data --ram 400M
    """
    from edgekit.runtime.values import Options

    if not text and tasks is None:
        raise ConvertError("nothing to evaluate on; give --text FILE or --tasks NAMES")
    if not text:
        refuse_flags(("against", "tokens"), "of --text only")
    if tasks is None:
        refuse_flags(("task_dir", "limit"), "of --tasks only")
    options = Options(ram=ram, context=context, threads=threads, cache_type=cache_type, **kv_policy_from(kv))
    silent = quiet or as_json
    report: dict[str, Any] = {"model": str(model)}
    lines: list[str] = []
    questions = _questions(tasks, task_dir, limit)
    with _bundle(model, silent) as bundle:
        assert bundle is not None
        if text:
            found = _compared(bundle, against, options, text, tokens, silent)
            report |= {"against": None if against is None else str(against), **asdict(found)}
            lines += _comparison_lines(found)
        if questions:
            results = _answered(bundle, options, questions, silent)
            report |= {"tasks": [asdict(result) for result in results]}
            lines += _task_lines(results)
    if as_json:
        print_json(report)
    else:
        click.echo("\n".join(lines))


def _compared(
    bundle: Path, against: Path | None, options: Options, text: tuple[Path, ...], tokens: int | None, silent: bool
) -> Comparison:
    """Perplexity on the text, and the distance from another model if there is one."""
    from edgekit.calibrate.activity import documents, token_runs
    from edgekit.evaluate.comparison import compare
    from edgekit.generate.embedding import require_writer
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.values import Options

    with _bundle(against, silent) as other, TextModel(bundle, options) as opened:
        require_writer(opened.manifest["model"])
        runs = token_runs(opened.tokenizer, documents(text), tokens or 1 << 40, opened.plan.context)
        total = sum(len(r) for r in runs)
        plain = Options(context=options.context, threads=options.threads)
        second = None if other is None else TextModel(other, plain)
        with progress_bar("reading", silent) as progress:
            found = compare(
                opened.session, None if second is None else second.session, runs, total,
                lambda ids: len(opened.tokenizer.decode(list(ids)).encode()), progress,
            )  # fmt: skip
        if second is not None:
            second.close()
    return found


def _comparison_lines(found: Comparison) -> list[str]:
    lines = [
        f"perplexity  {found.perplexity:.4f}  ({found.bits_per_byte:.4f} bits per byte, {found.tokens} tokens)",
    ]
    if found.kl is not None:
        lines += [
            f"against     perplexity {found.against_perplexity:.4f}",
            f"KL          mean {found.kl:.5f}, 99% {found.kl_99:.4f}, largest {found.kl_max:.3f} nats per token",
            f"agreement   first choice {found.top1:.2%}, first five {found.top5:.2%}",
        ]
    return lines


def _questions(tasks: str | None, folder: Path, limit: int | None) -> dict[str, list[Question]]:
    """The questions of each task, read before any work."""
    from edgekit.evaluate.tasks import read_task

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if tasks is not None and not names:
        raise ConvertError("--tasks: name at least one task")
    return {name: read_task(name, folder, limit) for name in names}


def _answered(bundle: Path, options: Options, questions: dict[str, list[Question]], silent: bool) -> list[TaskResult]:
    """What the model reaches in each task."""
    from edgekit.evaluate.likelihood import Judge
    from edgekit.evaluate.tasks import run_task
    from edgekit.generate.embedding import require_writer
    from edgekit.generate.loop import TextModel

    results = []
    with TextModel(bundle, options) as opened:
        require_writer(opened.manifest["model"])
        judge = Judge(opened)
        for name, lines in questions.items():
            with progress_bar(name, silent) as progress:
                results.append(run_task(judge, name, lines, progress))
    return results


def _task_lines(results: list[TaskResult]) -> list[str]:
    lines = [f"{'task':<16}{'questions':>10}{'accuracy':>10}{'+-':>8}{'per character':>15}"]
    for r in results:
        lines.append(f"{r.task:<16}{r.questions:>10}{r.accuracy:>10.2%}{r.stderr:>8.2%}{r.accuracy_norm:>15.2%}")
    return lines


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
