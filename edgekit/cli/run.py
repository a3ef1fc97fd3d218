"""edgekit run"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import (
    UTF8,
    activations_option,
    cache_type_option,
    context_option,
    json_option,
    lora_option,
    print_json,
    progress_bar,
    quiet_option,
    threads_option,
    waiting,
)
from edgekit.cli.grammar import grammar_from, grammar_options
from edgekit.cli.kv_policy import kv_policy_from, kv_policy_options
from edgekit.cli.pictures import image_option, see, with_looked
from edgekit.cli.report import runtime_figures, summarize
from edgekit.cli.sampling import sampling_from, sampling_options
from edgekit.converters.kinds import KINDS

if TYPE_CHECKING:
    from edgekit.cli.token_log import TokenLog
    from edgekit.generate.generation import Piece
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.model import Model
    from edgekit.runtime.values import Options, Sampling, Stats

INTERRUPTED = "interrupted"  # a finish_reason: Ctrl-C


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("-m", "--model", type=click.Path(path_type=Path), help="The bundle, as well as in the argument BUNDLE.")
@click.option("-p", "--prompt", type=UTF8, help="Text to continue.")
@click.option(
    "-f", "--file", "prompt_file", type=click.Path(path_type=Path), help="Read the prompt from a file ('-': stdin)."
)
@image_option
@click.option("--chat", is_flag=True, help="Wrap the prompt in the model's chat template.")
@click.option("--system", type=UTF8, help="With --chat: a system message.")
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
@context_option("Context in tokens.  [default: prompt + n]")
@threads_option
@click.option(
    "-b",
    "--batch-size",
    "batch",
    type=click.IntRange(0),
    default=0,
    help="Prompt tokens per pass.  [default: 128, fewer if memory is tight]",
)
@sampling_options
@click.option(
    "--stop",
    "-r",
    "--reverse-prompt",
    "stop",
    type=UTF8,
    multiple=True,
    help="Text that ends the generation; may be repeated.",
)
@click.option("--ignore-eos", is_flag=True, help="Go on after the end-of-text token.")
@click.option(
    "--io",
    type=click.Choice(["auto", "direct", "buffered"]),
    default="auto",
    show_default=True,
    help="Bypass the page cache or not.",
)
@lora_option
@cache_type_option
@kv_policy_options
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
@click.option(
    "--warm",
    type=click.Path(path_type=Path),
    help="File of what the window learned: read before, written after; it begins where the last run ended.",
)
@grammar_options
@click.option("--kernels", type=UTF8, help="Kernel set (avx512vnni, avx2, neon, portable...).  [default: the best]")
@activations_option
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
    bundle: Path | None,
    model: Path | None,
    prompt: str | None,
    prompt_file: Path | None,
    chat: bool,
    system: str | None,
    **flags: Any,
) -> None:
    """Generate text from BUNDLE, within --ram.

    Weights that do not fit the budget are read from flash as they are needed.

    \b
    Examples:
      edgekit run tiny.edgekit -p "Once upon a time" -n 64
      edgekit run tiny.edgekit -p "Once upon a time" --ram 300M --temp 0
      edgekit run tiny.edgekit -f prompt.txt --json
      edgekit run seeing.edgekit --image cat.jpg -p "What is this?" --chat
      edgekit run large.edgekit -p "Once upon a time" --ram 2G --draft-model small.edgekit
    """
    from edgekit.generate.tokenizer import Tokenizer

    path = _bundle(bundle, model)
    drafts = flags["draft_model"] is not None or flags["draft_max"]
    if any(flags[n] is not None for n in ("json_schema", "grammar", "regex")) and flags["backend"] != "native":
        raise click.UsageError("A grammar needs the native backend.")
    if flags["lora"] is not None and flags["backend"] != "native":
        raise click.UsageError("A LoRA adapter needs the native backend; convert --lora merges it.")
    if drafts and flags["backend"] != "native":
        raise click.UsageError("Drafts need the native backend.")
    if (flags["warm"] is not None or flags["kv_policy"] != "full") and flags["backend"] != "native":
        raise click.UsageError("--warm and --kv-policy need the native backend.")
    if flags["draft_model"] is not None and flags["draft_max"] == 0:
        raise click.UsageError("--draft-max 0 leaves --draft-model nothing to do.")

    text = _prompt(prompt, prompt_file)
    tokenizer = Tokenizer(path / "tokenizer") if (path / "manifest.json").is_file() else None
    ids: list[int] = []
    if tokenizer is not None and flags["images"]:
        ids = see(path, tokenizer, text, system if chat else None, chat, flags)
    elif tokenizer is not None:
        if chat:
            messages = [{"role": "system", "content": system}] if system else []
            text = tokenizer.chat([*messages, {"role": "user", "content": text}])
        ids = tokenizer.encode(text, special=not chat)
    _run(path, ids, flags)


def _bundle(bundle: Path | None, model: Path | None) -> Path:
    """The bundle, which is an argument or the value of -m."""
    if bundle is not None and model is not None:
        raise click.UsageError("Give the bundle once: as an argument, or with -m.")
    path = bundle or model
    if path is None:
        raise click.UsageError("Missing argument 'BUNDLE'; the bundle is an argument, or the value of -m.")
    return path


def _prompt(prompt: str | None, prompt_file: Path | None) -> str:
    if (prompt is None) == (prompt_file is None):
        raise click.UsageError("Give a prompt with -p, or a file with -f.")
    if prompt_file is None:
        return str(prompt)
    try:
        data = sys.stdin.buffer.read() if str(prompt_file) == "-" else prompt_file.read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise click.UsageError(f"{prompt_file}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{prompt_file}: not UTF-8 at byte {error.start}; convert it, as with iconv.") from error


def _run(bundle: Path, ids: list[int], flags: dict[str, Any]) -> None:
    """Generates, then reports; what was generated before Ctrl-C is reported as well."""
    from edgekit.cli.token_log import TokenLog
    from edgekit.plan.expectation import expect, learn, measured_between

    options, sampling = _options(bundle, ids, flags), sampling_from(flags, len(ids))
    begin = time.monotonic()
    with waiting(f"loading {bundle}", flags["quiet"] or flags["as_json"]):
        opened = _open(bundle, options, flags)
    with opened as model:
        warm = _warm_start(model, flags)
        loaded = time.monotonic() - begin
        log = TokenLog(model) if flags["stats_file"] else None
        text = _generate(model, ids, sampling, flags, log)
        if warm is not None:
            warm.save_warm(flags["warm"])
        expected = expect(bundle, options) if _plain(flags) else None
        if expected is not None and text.prompt_stats is not None:
            session, after = model.session, model.stats
            measured = measured_between(text.prompt_stats, after)
            learn(expected, measured, threads=session.threads, kernel_set=session.kernels, direct=after.io_direct)
        figures = {
            **text.figures(),
            "prompt_tokens": len(ids),
            "load_seconds": round(loaded, 3),
            "expected_tokens_per_second": expected.tokens_per_second if expected else None,
            **with_looked(runtime_figures(model), flags),
            "backend": flags["backend"],
            "seed": sampling.seed,
        }
    if log is not None:
        log.write(flags["stats_file"], figures)
    if flags["as_json"]:
        print_json(figures)
    elif not flags["quiet"]:
        click.echo()
        summarize(figures)
    if text.finish_reason == INTERRUPTED:
        raise click.exceptions.Exit(130)


def _plain(flags: dict[str, Any]) -> bool:
    """Whether this runtime computes token by token, which is what plans are about."""
    return flags["backend"] == "native" and not flags["draft_max"] and flags["draft_model"] is None


def _options(bundle: Path, ids: list[int], flags: dict[str, Any]) -> Options:
    """How to open the bundle."""
    from edgekit.bundle import manifest
    from edgekit.runtime.values import Options

    most = manifest.read(bundle).data["model"]["max_context"]
    return Options(
        ram=flags["ram"],
        context=flags["context"] or min(most, max(1, len(ids)) + flags["max_tokens"]),
        threads=flags["threads"],
        batch=flags["batch"],
        io=flags["io"],
        cache_type=flags["cache_type"],
        **kv_policy_from(flags),
        kernels=flags["kernels"],
        activations=flags["activations"],
        select=flags["select"],
        sparsity=flags["sparsity"],
        window=flags["window"],
        engine=flags["io_engine"],
        io_depth=flags["io_depth"],
        lookahead=not flags["no_lookahead"],
        draft_tokens=flags["draft_max"] or 0,
        lora=flags["lora"],
        least_batch=flags.get("least_batch", 0),
    )


@dataclass
class _Text:
    """What was generated so far.

    Attributes:
        pieces: of the text.
        tokens: their ids.
        finish_reason: why it ended.
        cached_tokens: of the prompt, that a file had.
        prompt_stats: the runtime's counters when the prompt was read; None if it was not.
    """

    pieces: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""
    cached_tokens: int = 0
    prompt_stats: Stats | None = None

    def figures(self) -> dict[str, Any]:
        """As values of a report."""
        return {
            "text": "".join(self.pieces),
            "token_ids": self.tokens,
            "finish_reason": self.finish_reason,
            "cached_tokens": self.cached_tokens,
        }


def _generate(
    model: TextModel, ids: list[int], sampling: Sampling, flags: dict[str, Any], log: TokenLog | None
) -> _Text:
    """Continues a prompt and prints as it goes, until it ends or the person presses Ctrl-C."""
    out = _Text()
    try:
        stream = _read_prompt(model, ids, sampling, flags, out)
        for piece in stream:
            out.pieces.append(piece.text)
            out.tokens += [piece.token] if piece.token >= 0 else []
            if log is not None:
                log.note(piece.token)
            if not flags["as_json"]:
                click.echo(piece.text, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:  # also in the moments between two tokens, and between the prompt and the first
        out.finish_reason = INTERRUPTED
    return out


def _read_prompt(
    model: TextModel, ids: list[int], sampling: Sampling, flags: dict[str, Any], out: _Text
) -> Iterator[Piece]:
    """Reads the prompt, with a progress bar; the pieces that follow, of which the first is there already."""
    hidden = flags["quiet"] or flags["as_json"] or len(ids) < 2 * model.plan.max_batch
    with progress_bar("reading the prompt", hidden) as progress:
        stream = model.generate(
            ids,
            flags["max_tokens"],
            sampling,
            flags["stop"],
            flags["ignore_eos"],
            progress,
            flags["prompt_cache"],
            grammar=grammar_from(model, flags),
            pictures=flags["images"],
        )
        first = next(stream, None)
    out.cached_tokens = stream.cached_tokens
    out.prompt_stats = model.stats
    yield from [] if first is None else [first]
    yield from stream
    out.finish_reason = stream.finish_reason


def _warm_start(model: TextModel, flags: dict[str, Any]) -> Model | None:
    """Takes what --warm has; the model whose counts it gets afterwards, if it has a window."""
    from edgekit.runtime.session import Session

    if flags["warm"] is None or not isinstance(model.session, Session):
        return None
    weights = model.session.model
    if os.path.lexists(flags["warm"]):
        weights.load_warm(flags["warm"])
    if weights.plan.window_bytes:
        return weights
    click.echo("edgekit: warning: --warm has nothing to do, as no units come through a window here", err=True)
    return None


def _open(bundle: Path, options: Options, flags: dict[str, Any]) -> TextModel:
    from edgekit.generate.loop import TextModel

    if flags["draft_model"] is not None:
        from edgekit.generate.speculate import open_with_draft

        return open_with_draft(bundle, flags["draft_model"], options)
    if flags["backend"] != "native":
        from edgekit.converters.session import ArtifactSession

        return TextModel(bundle, options, ArtifactSession(bundle, flags["backend"], options))
    return TextModel(bundle, options)
