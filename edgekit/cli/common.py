"""What commands share: progress bars, sizes for people, JSON output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgekit.errors import ConvertError


class Utf8(click.ParamType[str]):
    """Text that was given in UTF-8, which is what tokenizers read; other bytes of a command line are refused."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is.

        Raises:
            click.BadParameter: not UTF-8.
        """
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            self.fail("the text is not UTF-8; convert it, as with iconv", param, ctx)
        return value


UTF8 = Utf8()

Command = Callable[..., Any]
threads_option = click.option(
    "-t", "--threads", type=click.IntRange(0, 256), default=0, help="Compute threads.  [default: all cores]"
)


def context_option(text: str) -> Callable[[Command], Command]:
    """-c, --ctx-size, whose help says what it is the size of."""
    return click.option("-c", "--ctx-size", "context", type=click.IntRange(0), default=0, help=text)


cache_type_option = click.option(
    "--cache-type",
    type=click.Choice(["f16", "f32", "q8", "q4"]),
    default="f16",
    show_default=True,
    help="Type of the KV cache; q8 and q4 have 8 and 4 bits, and a scale for every 32 values.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
activations_option = click.option(
    "--activations",
    type=click.Choice(["auto", "int8", "f32"]),
    default="auto",
    show_default=True,
    help="What matrices are multiplied with: int8 is faster where the codec has kernels for that (affine and"
    " scaled_palette); auto is int8 there from 3 bits on, where it changes little, and else f32.",
)
lora_option = click.option(
    "--lora",
    type=click.Path(path_type=Path, exists=True),
    help="A LoRA adapter to apply: a folder that PEFT saved it to, or a file of `edgekit adapter`.",
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but results and errors.")


def flags_given(names: Iterable[str]) -> list[str]:
    """Which of these options of the running command are on its command line, as flags."""
    context = click.get_current_context()
    options = {option.name: option.opts for option in context.command.params}
    given = [n for n in names if context.get_parameter_source(n) is ParameterSource.COMMANDLINE]
    return [next(flag for flag in options[n] if flag.startswith("--")) for n in given]


def refuse_flags(names: Iterable[str], reason: str) -> None:
    """Refuses options that do not apply to what the running command is to do.

    Raises:
        ConvertError: one is on the command line.
    """
    flags = flags_given(names)
    if flags:
        raise ConvertError(f"{', '.join(flags)}: {reason}")


def print_json(table: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(table, indent=2, ensure_ascii=False))


def human(size: float) -> str:
    """Bytes with a unit, powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


@contextmanager
def waiting(text: str, quiet: bool) -> Iterator[None]:
    """A spinner on stderr while something of unknown length runs; nothing when that is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def progress_bar(text: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on stderr; nothing when that is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
