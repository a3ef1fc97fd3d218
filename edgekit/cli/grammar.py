"""Options of commands whose text a grammar can constrain."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgekit.generate.grammar import Grammar
    from edgekit.generate.loop import TextModel

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--json-schema",
        "--json-schema-file",
        "json_schema",
        type=click.Path(path_type=Path),
        help="File of a JSON schema that the text must follow; needs edgekit[grammar].",
    ),
    click.option(
        "--grammar",
        "--grammar-file",
        "grammar",
        type=click.Path(path_type=Path),
        help="File of a Lark grammar that the text must follow.",
    ),
    click.option("--regex", help="Regular expression that the whole text must match."),
)


def grammar_options(function: F) -> F:
    """Adds --json-schema, --grammar and --regex."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def grammar_from(model: TextModel, flags: dict[str, Any]) -> Grammar | None:
    """What these options ask for; None if none is given.

    Raises:
        click.UsageError: several are given, or a file cannot be read.
        EdgekitError: as `compile_grammar`.
    """
    given = [name for name in ("json_schema", "grammar", "regex") if flags[name] is not None]
    if not given:
        return None
    if len(given) > 1:
        raise click.UsageError("Give one of --json-schema, --grammar and --regex.")
    return model.grammar({"grammar": "lark"}.get(given[0], given[0]), _text(given[0], flags[given[0]]))


def _text(name: str, value: Any) -> str:
    if name == "regex":
        return str(value)
    try:
        text = Path(value).read_text(encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{value}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{value}: not UTF-8 at byte {error.start}; convert it, as with iconv.") from error
    if name == "json_schema":
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"{value}: not JSON ({error}).") from error
    return text
