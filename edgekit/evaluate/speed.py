"""How fast bundles are beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.runtime.session import Session
from edgekit.runtime.values import Options


@dataclass(frozen=True)
class Speed:
    """Of one bundle under one budget.

    Attributes:
        prompt_tokens_per_second: while a prompt is read.
        tokens_per_second: while text is written.
        peak_memory_bytes: of the runtime, the largest of all rounds.
    """

    prompt_tokens_per_second: float
    tokens_per_second: float
    peak_memory_bytes: int


def interleaved_speeds(
    bundles: Sequence[Path],
    options: Options,
    prompt: int,
    tokens: int,
    rounds: int,
    progress: Callable[[int, int], None],
) -> list[Speed]:
    """Medians over rounds in which each bundle has one turn, so that what else the machine does meets all of them.

    Args:
        bundles: what is measured.
        options: of each; the context is set to what is needed.
        prompt: tokens of the prompt.
        tokens: tokens that are written after it.
        rounds: turns of each bundle.
        progress: called with (turns done, of all).

    Raises:
        EdgekitError: the budget is too small for one of them.
    """
    turns: list[list[Speed]] = [[] for _ in bundles]
    for number in range(rounds):
        for i, bundle in enumerate(bundles):
            turns[i].append(_turn(bundle, replace(options, context=prompt + tokens), prompt, tokens))
            progress(number * len(bundles) + i + 1, rounds * len(bundles))
    return [
        Speed(
            statistics.median(t.prompt_tokens_per_second for t in of_one),
            statistics.median(t.tokens_per_second for t in of_one),
            max(t.peak_memory_bytes for t in of_one),
        )
        for of_one in turns
    ]


def _turn(bundle: Path, options: Options, prompt: int, tokens: int) -> Speed:
    """One prompt and one text of ids that are drawn by a fixed seed."""
    with Session(bundle, options) as session:
        ids = np.random.default_rng(1).integers(0, session.vocab_size, prompt + tokens).tolist()
        session.eval(ids[:prompt])
        for token in ids[prompt:]:
            session.eval([token])
        stats = session.stats
    return Speed(
        prompt / max(stats.prompt_seconds, 1e-9),
        tokens / max(stats.generation_seconds, 1e-9),
        stats.peak_memory_bytes,
    )
