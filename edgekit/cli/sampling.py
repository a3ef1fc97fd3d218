"""Options of commands that choose tokens."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgekit.runtime.values import Sampling

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = (
    click.option("-s", "--seed", type=int, default=-1, help="Seed; -1 for a random one.  [default: -1]"),
    click.option(
        "--temp", "--temperature", "temperature", type=float, default=0.8, show_default=True, help="0 is greedy."
    ),
    click.option("--top-k", type=click.IntRange(0), default=40, show_default=True, help="0 is off."),
    click.option("--top-p", type=click.FloatRange(0, 1), default=0.95, show_default=True, help="1 is off."),
    click.option("--min-p", type=click.FloatRange(0, 1), default=0.05, show_default=True, help="0 is off."),
    click.option("--repeat-penalty", type=click.FloatRange(0), default=1.0, show_default=True, help="1 is off."),
    click.option(
        "--repeat-last-n",
        type=click.IntRange(1),
        default=64,
        show_default=True,
        help="Tokens that the repeat penalty looks at.",
    ),
    click.option(
        "--presence-penalty",
        type=click.FloatRange(-2, 2),
        default=0.0,
        show_default=True,
        help="Taken from the logits of tokens that the generated text has; 0 is off.",
    ),
    click.option(
        "--frequency-penalty",
        type=click.FloatRange(-2, 2),
        default=0.0,
        show_default=True,
        help="The same, as often as it has them.",
    ),
)


def sampling_options(function: F) -> F:
    """Adds --seed, --temp, --top-k and the like."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def sampling_from(flags: dict[str, Any], prompt_tokens: int = 0) -> Sampling:
    """How to choose tokens, behind a prompt of that many."""
    from edgekit.runtime.values import Sampling

    return Sampling(
        temperature=flags["temperature"],
        top_k=flags["top_k"],
        top_p=flags["top_p"],
        min_p=flags["min_p"],
        repeat_penalty=flags["repeat_penalty"],
        repeat_last_n=flags["repeat_last_n"],
        seed=flags["seed"] if flags["seed"] >= 0 else secrets.randbits(32),
        presence_penalty=flags["presence_penalty"],
        frequency_penalty=flags["frequency_penalty"],
        penalty_begin=prompt_tokens,
    )
