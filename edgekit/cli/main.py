"""The command group. Commands are imported when they are called; errors become one line."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

from edgekit.cli.foreign import add_answers
from edgekit.errors import EdgekitError
from edgekit.version import __version__

# name -> (module under edgekit.cli, one line of help)
COMMANDS = {
    "convert": ("convert", "Convert a checkpoint to a bundle."),
    "run": ("run", "Generate text from a bundle inside a memory budget."),
    "chat": ("chat", "Talk with a model in the terminal."),
    "embed": ("embed", "Make vectors of texts."),
    "rerank": ("rerank", "Order documents by how well they answer a query."),
    "serve": ("serve", "Answer requests over HTTP, as OpenAI's API does."),
    "bench": ("bench", "Measure speed, reads and quality."),
    "eval": ("eval", "Measure quality on text, and the distance from the original."),
    "compare": ("compare", "Set recipes side by side: size, quality, speed."),
    "plan": ("plan", "Say what a budget will give, before running."),
    "profile": ("profile", "Measure this device."),
    "export": ("export", "Make Core ML, ONNX, MLX or Core AI artifacts of a bundle."),
    "check": ("check", "Prove that artifacts compute what the bundle computes."),
    "adapter": ("adapter", "Make a LoRA adapter's file for a bundle."),
    "finetune": ("finetune", "Train a bundle to predict what its original predicts, at the same size."),
    "relufy": ("relufy", "Make a checkpoint's activations sparse, with a short fine-tune."),
    "inspect": ("inspect", "Show what is in a bundle or checkpoint."),
    "verify": ("verify", "Check every byte of a bundle."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edgekit.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        add_answers(cmd_name, command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgekit")
def cli() -> None:
    """Language models on devices with too little memory.

    \b
    Example:
      edgekit convert ./checkpoint -o model.edgekit
      edgekit run model.edgekit -p "Once upon a time" --ram 400M
    """


def main(args: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold bytes that are no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = cli.main(args=args, prog_name="edgekit", standalone_mode=False)
        return status if isinstance(status, int) else 0  # click returns the status of an Exit, else None
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except EdgekitError as error:
        click.echo(f"edgekit: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nedgekit: interrupted", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
