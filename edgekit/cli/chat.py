"""edgekit chat"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgekit.cli.common import (
    UTF8,
    cache_type_option,
    context_option,
    lora_option,
    quiet_option,
    threads_option,
    waiting,
)
from edgekit.cli.grammar import grammar_from, grammar_options
from edgekit.cli.kv_policy import kv_policy_from, kv_policy_options
from edgekit.cli.sampling import sampling_from, sampling_options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--system", "-sys", "--system-prompt", "system", type=UTF8, help="A system message.")
@click.option(
    "--load", "load_file", type=click.Path(path_type=Path), help="Go on with a conversation that /save wrote."
)
@click.option("--ram", help="Hard memory budget of the runtime, as in 400M.  [default: all that is needed]")
@context_option("Context in tokens.  [default: the model's, at most 2048]")
@click.option(
    "-n",
    "--n-predict",
    "--predict",
    "--max-tokens",
    "max_tokens",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Most tokens of an answer.",
)
@threads_option
@sampling_options
@click.option("--draft-max", type=click.IntRange(0, 64), default=0, help="Guess up to N tokens from the text so far.")
@lora_option
@cache_type_option
@kv_policy_options
@grammar_options
@quiet_option
def command(bundle: Path, system: str | None, load_file: Path | None, quiet: bool, **flags: Any) -> None:
    """Talk with the model of BUNDLE, within --ram.

    Each line is a message; /help lists commands. Alt-Enter or a \\ at the end of a line begins another line, Ctrl-C
    stops an answer. The model's chat template is used. A model without one reads a plain transcript, as "User: Hello",
    and its answer ends where it would write the next "User:". When the context is full, the oldest messages are left
    out and the system message stays. What is piped in is answered line by line: answers go to stdout, all else to
    stderr.

    \b
    Examples:
      edgekit chat tiny.edgekit --ram 300M
      edgekit chat tiny.edgekit --system "Answer in one sentence."
      echo "Why is the sky blue?" | edgekit chat tiny.edgekit -q
    """
    from edgekit.chat.conversation import Conversation
    from edgekit.chat.terminal import PipeLines, TerminalLines, history_file, print_piece, talk
    from edgekit.generate.loop import TextModel
    from edgekit.runtime.values import Options

    def notice(text: str) -> None:
        if not quiet or text.startswith("edgekit: "):
            click.echo(click.style(text, dim=True), err=True)

    lines = TerminalLines(history_file()) if sys.stdin.isatty() else PipeLines(sys.stdin)
    options = Options(
        ram=flags["ram"],
        context=flags["context"],
        threads=flags["threads"],
        draft_tokens=flags["draft_max"],
        cache_type=flags["cache_type"],
        lora=flags["lora"],
        **kv_policy_from(flags),
    )
    with waiting(f"loading {bundle}", quiet):
        model = TextModel(bundle, options)
    with model:
        grammar = grammar_from(model, flags)
        conversation = Conversation(model, sampling_from(flags), flags["max_tokens"], grammar, notify=notice)
        if load_file is not None:
            conversation.load(load_file)
        if system:
            conversation.set_system(system)
        if not model.tokenizer.has_chat_template:
            notice('the model has no chat template; it reads a plain transcript, as "User: Hello"')
        talk(conversation, lines, print_piece, notice)
