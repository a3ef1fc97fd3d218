"""edgekit bench"""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import activations_option, human, print_json, progress_bar, quiet_option, threads_option

if TYPE_CHECKING:
    from edgekit.plan.corrections import Measured
    from edgekit.runtime.values import Options

COLUMNS = ("select", "ram", "prompt_tokens_per_second", "tokens_per_second", "expected_tokens_per_second",
           "bytes_read_per_token", "selected_share", "window_hit_rate", "peak_memory_bytes",
           "kl", "top1", "perplexity", "dense_perplexity")  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-p", "--n-prompt", "prompt", type=click.IntRange(2), default=32, show_default=True)
@click.option("-n", "--n-gen", "tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("-r", "--repetitions", type=click.IntRange(1), default=3, show_default=True)
@click.option("--ram", multiple=True, help="Budget, as in 400M; several for several rows.")
@click.option("--select", multiple=True, default=("auto",), show_default=True, help="Selection; may be repeated.")
@click.option("--sparsity", type=click.FloatRange(0, 0.99), default=0.0, help="Of threshold and prompt selection.")
@activations_option
@threads_option
@click.option("--text", type=click.Path(path_type=Path), multiple=True, help="Also compare with dense on this text.")
@click.option("--text-tokens", type=click.IntRange(64), default=2000, show_default=True)
@click.option("-o", "--output", "form", type=click.Choice(["md", "json", "csv"]), default="md", show_default=True)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw bytes read per token (needs matplotlib).")
@quiet_option
def command(
    bundle: Path,
    prompt: int,
    tokens: int,
    repetitions: int,
    ram: tuple[str, ...],
    select: tuple[str, ...],
    sparsity: float,
    activations: str,
    threads: int,
    text: tuple[Path, ...],
    text_tokens: int,
    form: str,
    plot: Path | None,
    quiet: bool,
) -> None:
    """Measure speed, reads and (with --text) quality, a row per budget and selection; medians.

    \b
    Examples:
      edgekit bench tiny.edgekit --ram 300M --ram 400M
      edgekit bench demo.edgekit --ram 3M --select all --select predicted --text stories.txt
    """
    from edgekit.runtime.values import Options

    rows: list[dict[str, Any]] = []
    series: dict[str, list[tuple[float, float]]] = {}
    jobs = [(r, s) for r in ram or (None,) for s in select]
    with progress_bar("measuring", quiet) as progress:
        for i, (budget, chosen) in enumerate(jobs):
            progress(i, len(jobs))
            options = Options(ram=budget, threads=threads, select=chosen, sparsity=sparsity, activations=activations)
            row, per_token = _measure(bundle, options, prompt, tokens, repetitions)
            row |= _quality(bundle, options, text, text_tokens)
            rows.append({c: row.get(c) for c in COLUMNS})
            series[f"{row['select']} {budget or ''}".strip()] = per_token
    if plot is not None:
        from edgekit.cli.plots import curve

        curve(plot, bundle.name, "token", "MiB read", series)
    if form == "json":
        print_json({"bundle": str(bundle), "rows": rows})
    elif form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        click.echo(out.getvalue(), nl=False)
    else:
        _markdown(rows)


def _measure(
    bundle: Path, options: Options, prompt: int, tokens: int, repetitions: int
) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    import numpy as np

    from edgekit.cli.report import selection_report
    from edgekit.plan.expectation import expect, learn, measured_between
    from edgekit.runtime.session import Session

    used = replace(options, context=prompt + tokens)
    rates: list[tuple[float, float]] = []
    measured: list[Measured] = []
    reads: list[int] = []
    series: list[tuple[float, float]] = []
    with Session(bundle, used) as session:
        for repetition in range(repetitions):
            session.reset()
            ids = np.random.default_rng(repetition).integers(0, session.vocab_size, prompt + tokens).tolist()
            before = session.stats
            session.eval(ids[:prompt])
            middle = session.stats
            last = middle
            series = []
            for i, token in enumerate(ids[prompt:]):
                session.eval([token])
                now = session.stats
                series.append((float(i), (now.generation_bytes_read - last.generation_bytes_read) / 2**20))
                last = now
            rates.append(
                (
                    prompt / (middle.prompt_seconds - before.prompt_seconds),
                    tokens / (last.generation_seconds - middle.generation_seconds),
                )
            )
            measured.append(measured_between(middle, last))
            reads.append((last.generation_bytes_read - middle.generation_bytes_read) // tokens)
        session_report = selection_report(session.stats)
        expected = expect(bundle, used)
        if expected is not None:  # by the repetition in the middle, as the figures shown are medians
            median = sorted(measured, key=lambda m: m.seconds)[(repetitions - 1) // 2]
            direct = session.stats.io_direct
            learn(expected, median, threads=session.threads, kernel_set=session.kernels, direct=direct)
        plan, peak = session.plan, session.stats.peak_memory_bytes
    row = {
        "select": plan.select,
        "ram": plan.budget_bytes,
        "prompt_tokens_per_second": round(statistics.median(r[0] for r in rates), 2),
        "tokens_per_second": round(statistics.median(r[1] for r in rates), 2),
        "bytes_read_per_token": statistics.median(reads),
        "peak_memory_bytes": peak,
        "expected_tokens_per_second": expected.tokens_per_second if expected else None,
        **session_report,
    }
    return row, series


def _quality(bundle: Path, options: Options, text: tuple[Path, ...], tokens: int) -> dict[str, Any]:
    if not text:
        return {}
    from edgekit.calibrate.activity import documents, token_runs
    from edgekit.evaluate.divergence import divergence
    from edgekit.generate.tokenizer import Tokenizer

    runs = token_runs(Tokenizer(bundle / "tokenizer"), documents(text), tokens, 256)
    return asdict(divergence(bundle, replace(options, context=256), runs))


def _markdown(rows: list[dict[str, Any]]) -> None:
    columns = ("selection", "budget", "prompt tok/s", "tok/s", "expected", "read per token", "selected", "hits", "KL")
    click.echo(f"| {' | '.join(columns)} | perplexity (dense) |")
    click.echo("|---" * (len(columns) + 1) + "|")
    for r in rows:
        kl = f"{r['kl']:.4f} | {r['perplexity']:.3f} ({r['dense_perplexity']:.3f})" if r["kl"] is not None else " | "
        guess = f"{r['expected_tokens_per_second']:.1f}" if r["expected_tokens_per_second"] else ""
        cells = (
            r["select"],
            human(r["ram"]),
            f"{r['prompt_tokens_per_second']:.1f}",
            f"{r['tokens_per_second']:.1f}",
            guess,
            human(r["bytes_read_per_token"]),
            f"{r['selected_share']:.1%}",
            f"{r['window_hit_rate']:.1%}",
            kl,
        )
        click.echo(f"| {' | '.join(cells)} |")
