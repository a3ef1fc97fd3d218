"""edgekit run"""

from __future__ import annotations

import itertools
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import human, json_option, print_json, progress_bar, quiet_option, waiting
from edgekit.converters.kinds import KINDS

if TYPE_CHECKING:
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.values import Options, Stats


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-p", "--prompt", help="Text to continue.")
@click.option(
    "-f", "--file", "prompt_file", type=click.Path(path_type=Path), help="Read the prompt from a file ('-': stdin)."
)
@click.option("--chat", is_flag=True, help="Wrap the prompt in the model's chat template.")
@click.option("--system", help="With --chat: a system message.")
@click.option(
    "-n",
    "--n-predict",
    "--predict",
    "--max-tokens",
    "max_tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Most tokens to generate.",
)
@click.option("--ram", help="Hard memory budget of the runtime, as in 400M.  [default: all that is needed]")
@click.option(
    "-c", "--ctx-size", "context", type=click.IntRange(0), default=0, help="Context in tokens.  [default: prompt + n]"
)
@click.option("-t", "--threads", type=click.IntRange(0, 256), default=0, help="Compute threads.  [default: all cores]")
@click.option(
    "-b",
    "--batch-size",
    "batch",
    type=click.IntRange(0),
    default=0,
    help="Prompt tokens per pass.  [default: 128, fewer if memory is tight]",
)
@click.option("-s", "--seed", type=int, default=-1, help="Seed; -1 for a random one.  [default: -1]")
@click.option("--temp", "--temperature", "temperature", type=float, default=0.8, show_default=True, help="0 is greedy.")
@click.option("--top-k", type=click.IntRange(0), default=40, show_default=True, help="0 is off.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=0.95, show_default=True, help="1 is off.")
@click.option("--min-p", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="0 is off.")
@click.option("--repeat-penalty", type=click.FloatRange(0), default=1.0, show_default=True, help="1 is off.")
@click.option(
    "--repeat-last-n", type=click.IntRange(1), default=64, show_default=True, help="Tokens that the penalty looks at."
)
@click.option(
    "--stop", "-r", "--reverse-prompt", "stop", multiple=True, help="Text that ends the generation; may be repeated."
)
@click.option("--ignore-eos", is_flag=True, help="Go on after the end-of-text token.")
@click.option(
    "--io",
    type=click.Choice(["auto", "direct", "buffered"]),
    default="auto",
    show_default=True,
    help="Bypass the page cache or not.",
)
@click.option(
    "--cache-type", type=click.Choice(["f16", "f32"]), default="f16", show_default=True, help="Type of the KV cache."
)
@click.option(
    "--select",
    type=click.Choice(["auto", "all", "exact", "predicted", "threshold", "prompt", "router"]),
    default="auto",
    show_default=True,
    help="Which neurons a token gets; 'all' and 'exact' give the same text.",
)
@click.option(
    "--sparsity",
    type=click.FloatRange(0, 0.99),
    default=0.5,
    show_default=True,
    help="With threshold and prompt selection: share of the neurons to leave out.",
)
@click.option("--window", type=click.IntRange(0), help="Keep what the last N tokens used.  [default: all that fits]")
@click.option("--io-engine", type=click.Choice(["auto", "uring", "threads"]), default="auto", show_default=True)
@click.option("--io-depth", type=click.IntRange(0, 4096), default=0, help="Small reads under way.  [default: 128]")
@click.option("--no-lookahead", is_flag=True, help="Do not read for the next layer while attention computes.")
@click.option(
    "--draft-max",
    "--draft",
    "--num-draft-tokens",
    "draft_max",
    type=click.IntRange(0, 64),
    help="Guess up to N tokens and check them in one pass: from the text so far, or with --draft-model.  "
    "[default: 0; 8 with --draft-model]",
)
@click.option(
    "--draft-model",
    "--model-draft",
    "-md",
    "draft_model",
    type=click.Path(path_type=Path),
    help="Smaller bundle with the same tokenizer that guesses; --ram holds both.",
)
@click.option("--stats", "stats_file", type=click.Path(path_type=Path), help="Write counters per token to a JSON file.")
@click.option(
    "--prompt-cache",
    type=click.Path(path_type=Path),
    help="File that keeps the evaluated prompt: what the next prompt shares with it is not read again.",
)
@click.option("--kernels", help="Kernel set (avx512, avx2, neon, portable).  [default: the best]")
@click.option(
    "--backend",
    type=click.Choice(["native", *(name for name, kind in KINDS.items() if kind.runs)]),
    default="native",
    show_default=True,
    help="What computes: this runtime, or an artifact of the bundle ('edgekit export').",
)
@json_option
@quiet_option
def command(
    bundle: Path, prompt: str | None, prompt_file: Path | None, chat: bool, system: str | None, **flags: Any
) -> None:
    """Generate text from BUNDLE, within --ram.

    Weights that do not fit the budget are read from flash as they are needed.

    \b
    Examples:
      edgekit run tiny.edgekit -p "Once upon a time" -n 64
      edgekit run tiny.edgekit -p "Once upon a time" --ram 300M --temp 0
      edgekit run tiny.edgekit -f prompt.txt --json
      edgekit run large.edgekit -p "Once upon a time" --ram 2G --draft-model small.edgekit
    """
    from edgekit.generate.tokenizer import Tokenizer

    drafts = flags["draft_model"] is not None or flags["draft_max"]
    if drafts and flags["backend"] != "native":
        raise click.UsageError("Drafts need the native backend.")
    if flags["draft_model"] is not None and flags["draft_max"] == 0:
        raise click.UsageError("--draft-max 0 leaves --draft-model nothing to do.")

    text = _prompt(prompt, prompt_file)
    tokenizer = Tokenizer(bundle / "tokenizer") if (bundle / "manifest.json").is_file() else None
    ids: list[int] = []
    if tokenizer is not None:
        if chat:
            messages = [{"role": "system", "content": system}] if system else []
            text = tokenizer.chat([*messages, {"role": "user", "content": text}])
        ids = tokenizer.encode(text, special=not chat)
    _run(bundle, ids, flags)


def _prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if (prompt is None) == (prompt_file is None):
        raise click.UsageError("Give a prompt with -p, or a file with -f.")
    if prompt_file is None:
        return str(prompt)
    try:
        return sys.stdin.read() if str(prompt_file) == "-" else prompt_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{prompt_file}: cannot be read as text ({error}).") from error


def _run(bundle: Path, ids: list[int], flags: dict[str, Any]) -> None:
    from edgekit.bundle import manifest
    from edgekit.cli.token_log import TokenLog
    from edgekit.plan.predict import expected
    from edgekit.runtime.model import process_peak_bytes
    from edgekit.runtime.values import Options, Sampling

    most = manifest.read(bundle).data["model"]["max_context"]
    context = flags["context"] or min(most, max(1, len(ids)) + flags["max_tokens"])
    seed = flags["seed"] if flags["seed"] >= 0 else secrets.randbits(32)
    options = Options(
        flags["ram"],
        context,
        flags["threads"],
        flags["batch"],
        1,
        flags["io"],
        flags["cache_type"],
        0,
        flags["kernels"],
        flags["select"],
        flags["sparsity"],
        flags["window"],
        flags["io_engine"],
        flags["io_depth"],
        not flags["no_lookahead"],
        draft_tokens=flags["draft_max"] or 0,
    )
    sampling = Sampling(
        flags["temperature"], flags["top_k"], flags["top_p"], flags["min_p"],
        flags["repeat_penalty"], flags["repeat_last_n"], seed,
    )  # fmt: skip
    plain = flags["backend"] == "native" and not options.draft_tokens and flags["draft_model"] is None
    begin = time.monotonic()
    with waiting(f"loading {bundle}", flags["quiet"] or flags["as_json"]):
        opened = _open(bundle, options, flags)
    with opened as model:
        loaded = time.monotonic() - begin
        pieces, tokens, log = [], [], TokenLog(model) if flags["stats_file"] else None
        hidden = flags["quiet"] or flags["as_json"]
        with progress_bar("reading the prompt", hidden or len(ids) < 2 * model.plan.max_batch) as progress:
            stream = model.generate(
                ids, flags["max_tokens"], sampling, flags["stop"], flags["ignore_eos"], progress, flags["prompt_cache"]
            )
            first = next(stream, None)
        for piece in itertools.chain([] if first is None else [first], stream):
            pieces.append(piece.text)
            tokens += [piece.token] if piece.token >= 0 else []
            if log is not None:
                log.note(piece.token)
            if not flags["as_json"]:
                click.echo(piece.text, nl=False)
                sys.stdout.flush()
        s, plan = model.stats, model.plan
        draft = getattr(model.session, "draft", None)
        report = {
            "text": "".join(pieces),
            "token_ids": tokens,
            "finish_reason": stream.finish_reason,
            "prompt_tokens": len(ids),
            "cached_tokens": stream.cached_tokens,
            "prompt_tokens_per_second": _rate(s.prompt_tokens, s.prompt_seconds),
            "tokens_per_second": _rate(s.generated_tokens, s.generation_seconds),
            "expected_tokens_per_second": expected(bundle, options) if plain else None,
            "load_seconds": round(loaded, 3),
            "peak_memory_bytes": s.peak_memory_bytes + (draft.stats.peak_memory_bytes if draft else 0),
            "process_peak_memory_bytes": process_peak_bytes(),
            "budget_bytes": plan.budget_bytes + (draft.plan.budget_bytes if draft else 0),
            "floor_bytes": plan.floor_bytes,
            "resident_bytes": plan.resident_bytes,
            "weight_bytes": plan.weight_bytes,
            "bytes_read": s.bytes_read,
            "bytes_read_per_token": s.generation_bytes_read // s.generated_tokens if s.generated_tokens else 0,
            "io_wait_seconds": round(s.io_wait_seconds, 3),
            "io": "direct" if s.io_direct else "buffered",
            "io_engine": "uring" if s.io_uring else "threads",
            "select": plan.select,
            "window_bytes": plan.window_bytes,
            **selection_report(s),
            "drafted_tokens": s.drafted_tokens,
            "accepted_tokens": s.accepted_tokens,
            "backend": flags["backend"],
            "kernels": model.session.kernels,
            "threads": model.session.threads,
            "seed": seed,
        }
    if log is not None:
        log.write(flags["stats_file"], report)
    if flags["as_json"]:
        print_json(report)
    elif not flags["quiet"]:
        click.echo()
        _summary(report)


def _open(bundle: Path, options: Options, flags: dict[str, Any]) -> TextModel:
    from edgekit.generate.loop import TextModel

    if flags["draft_model"] is not None:
        from edgekit.generate.speculate import open_with_draft

        return open_with_draft(bundle, flags["draft_model"], options)
    if flags["backend"] != "native":
        from edgekit.converters.session import ArtifactSession

        return TextModel(bundle, options, ArtifactSession(bundle, flags["backend"], options))
    return TextModel(bundle, options)


def selection_report(s: Stats) -> dict[str, Any]:
    """What selecting neurons did, per token of the generation."""
    tokens = max(1, s.generated_tokens)
    units = s.window_hits + s.window_misses
    return {
        "selected_share": round(s.selected / s.neurons, 4) if s.neurons else 1.0,
        "window_hit_rate": round(s.window_hits / units, 4) if units else 0.0,
        "reads_per_token": round(s.window_misses / tokens, 1),
        "select_ms": round(1e3 * s.select_seconds / tokens, 3),
        "read_ms": round(1e3 * s.read_seconds / tokens, 3),
        "ffn_ms": round(1e3 * s.ffn_seconds / tokens, 3),
        "manage_ms": round(1e3 * s.manage_seconds / tokens, 3),
    }


def _rate(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 2) if seconds > 0 else 0.0


def _summary(r: dict[str, Any]) -> None:
    lines = (
        f"prompt      {r['prompt_tokens']} tokens, {r['prompt_tokens_per_second']} tok/s",
        f"generation  {len(r['token_ids'])} tokens, {r['tokens_per_second']} tok/s ({r['finish_reason']})"
        + (f", {r['expected_tokens_per_second']} expected" if r["expected_tokens_per_second"] else ""),
        f"memory      {human(r['peak_memory_bytes'])} runtime, {human(r['process_peak_memory_bytes'])} whole process; "
        f"{human(r['resident_bytes'])} of {human(r['weight_bytes'])} weights resident"
        if r["weight_bytes"]
        else f"memory      {human(r['process_peak_memory_bytes'])} whole process ({r['backend']})",
        f"flash       {human(r['bytes_read_per_token'])} per token ({r['io']} reads)" if r["weight_bytes"] else "",
        f"selection   {r['select']}: {r['selected_share']:.1%} of the neurons, {r['window_hit_rate']:.1%} of their "
        f"units in the window of {human(r['window_bytes'])}"
        if r["select"] not in ("all", "router")
        else "",
        f"drafts      {r['accepted_tokens']} of {r['drafted_tokens']} guessed tokens were right"
        if r["drafted_tokens"]
        else "",
    )
    for line in filter(None, lines):
        click.echo(click.style(line, dim=True), err=True)
