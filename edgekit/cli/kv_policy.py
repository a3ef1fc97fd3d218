"""Options of commands that say what the KV cache keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option(
        "--kv-policy",
        type=click.Choice(["full", "sinks"]),
        default="full",
        show_default=True,
        help="What the KV cache keeps: every token, or the first ones and the latest.",
    ),
    click.option("--kv-window", type=click.IntRange(1), help="With sinks: latest tokens to keep.  [default: 512]"),
    click.option("--kv-sinks", type=click.IntRange(0), help="With sinks: first tokens to keep.  [default: 4]"),
)


def kv_policy_options(function: F) -> F:
    """Adds --kv-policy, --kv-window and --kv-sinks."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def kv_policy_from(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What these options ask for, as values of `Options`.

    Raises:
        click.UsageError: a size without the policy that has it.
    """
    if flags["kv_policy"] == "full" and (flags["kv_window"], flags["kv_sinks"]) != (None, None):
        raise click.UsageError("--kv-window and --kv-sinks are of --kv-policy sinks.")
    return {"kv_policy": flags["kv_policy"], "kv_window": flags["kv_window"] or 0, "kv_sinks": flags["kv_sinks"]}
