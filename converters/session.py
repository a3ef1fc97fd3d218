"""An artifact behind the face of `edgekit.runtime.Session`, so that `edgekit run` generates from either."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.codecs.base import F32
from edgekit.converters.engines import Engine, open_engine
from edgekit.errors import ContextFullError, RuntimeFailure
from edgekit.runtime.session import LogitSampler
from edgekit.runtime.values import Options, Plan, Sampling, Stats, token_ids

BATCH = 128


class ArtifactSession:
    """Tokens, logits, sampling and counters over an engine."""

    def __init__(self, bundle: Path, kind: str, options: Options) -> None:
        """Opens an artifact of a bundle.

        Raises:
            EdgekitError: as `open_engine`, or a context beyond the artifact's.
        """
        only = replace(options, compute="feed_forward", context=0, cache_type="f16")
        self.engine: Engine = open_engine(bundle, kind, only)
        self.context = options.context or self.engine.context
        if self.context > self.engine.context:
            self.close()
            raise RuntimeFailure(
                f"a context of {options.context} tokens is beyond the artifact's {self.engine.context}; "
                f"export it again with --ctx-size {options.context}"
            )
        self.kernels, self.threads = kind, options.threads
        self.sampler = LogitSampler()
        self.reset()

    def close(self) -> None:
        """Frees the memory."""
        self.engine.close()

    def reset(self) -> None:
        """Forgets all tokens."""
        self.engine.reset()
        self.sampler.reset()
        self.history: list[int] = []
        self.last: F32 | None = None
        self.chosen: int | None = None  # by `next`, and not appended
        self.spent = {"prompt_seconds": 0.0, "generation_seconds": 0.0}
        self.counts = {"prompt_tokens": 0, "generated_tokens": 0}

    @property
    def position(self) -> int:
        """Tokens so far."""
        return len(self.history)

    def logits(self, tokens: Sequence[int]) -> F32:
        """Appends tokens and returns their logits, f32 [len(tokens), vocab_size].

        Raises:
            RuntimeFailure: no room in the context, or a token out of range.
        """
        if self.position + len(tokens) > self.context:
            raise ContextFullError(f"the context of {self.context} tokens is full; open with a larger one")
        vocabulary = self.engine.model["vocab_size"]
        tokens = token_ids(tokens, vocabulary)
        begin, prompt = time.monotonic(), len(tokens) > 1 or not self.history
        out = self.engine(tokens)
        self.counts["prompt_tokens" if prompt else "generated_tokens"] += len(tokens)
        self.spent["prompt_seconds" if prompt else "generation_seconds"] += time.monotonic() - begin
        if not np.isfinite(out).all():
            raise RuntimeFailure(f"the artifact's logits are not finite after {self.position} tokens")
        self.history += tokens
        self.last, self.chosen = out[-1], None
        return out

    def eval(self, tokens: Sequence[int]) -> None:
        """Appends tokens; raises as `logits`."""
        self.logits(tokens)

    def next(self, sampling: Sampling) -> int:
        """The next token of the text: appends the one that the last call chose, and chooses another, as
        `edgekit.runtime.Session.next`.

        Raises:
            ContextFullError: no room for the last one.
            RuntimeFailure: nothing was evaluated yet.
        """
        if self.chosen is not None:
            self.eval([self.chosen])
        if self.last is None:
            raise RuntimeFailure("nothing was evaluated yet, so there are no logits")
        self.chosen = self.sampler.sample(self.last, self.history, sampling)
        return self.chosen

    @property
    def plan(self) -> Plan:
        """That of the flash variant's runtime; else zeros but for the context."""
        behind = self.engine.counters()
        if behind is not None:
            return replace(behind[1], context=self.context, max_batch=BATCH)
        zero = {f.name: 0 for f in fields(Plan)}
        return Plan(**(zero | {"context": self.context, "max_batch": BATCH, "select": "all"}))  # type: ignore[arg-type]

    @property
    def stats(self) -> Stats:
        """Counters; those of reads and memory are the flash variant's runtime's."""
        zero = {f.name: 0 for f in fields(Stats)} | {"io_direct": False, "io_uring": False}
        behind = self.engine.counters()
        found = behind[0] if behind is not None else Stats(**zero)  # type: ignore[arg-type]
        counted: dict[str, Any] = {**self.counts, **self.spent}
        return replace(found, **counted)
