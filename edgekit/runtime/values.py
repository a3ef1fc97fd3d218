"""Values of the runtime: options, plan, counters, sampling."""

from __future__ import annotations

import ctypes as c
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

from edgekit.errors import RuntimeFailure
from edgekit.runtime import native
from edgekit.sizes import parse_bytes


@dataclass(frozen=True)
class Options:
    """How to open a bundle; zeros stand for the runtime's defaults (edgekit.h)."""

    ram: str | int | None = None
    context: int = 0
    threads: int = 0
    batch: int = 0
    sessions: int = 1
    io: str = "auto"
    cache_type: str = "f16"
    io_threads: int = 0
    kernels: str | None = None
    select: str = "auto"
    sparsity: float = 0.0
    window: int | None = None  # tokens; None for as many as fit
    engine: str = "auto"
    io_depth: int = 0
    lookahead: bool = True
    compute: str = "all"  # or "feed_forward", "linear": another engine has the rest
    draft_tokens: int = 0  # most tokens drafted for one pass
    lora: str | Path | None = None  # an adapter: a file of `edgekit adapter`, or a folder of PEFT
    kv_policy: str = "full"  # or "sinks": the cache keeps the first kv_sinks positions and the last kv_window
    kv_window: int = 0
    kv_sinks: int | None = None
    least_batch: int = 0  # tokens that a pass holds however tight the budget
    activations: str = "auto"  # "f32", or "int8" where the codec has kernels for that; auto: int8 from 3 bits on

    def native(self, adapter: Path | None = None) -> native.Options:
        """As the C struct.

        Args:
            adapter: the file of `lora`.

        Raises:
            RuntimeFailure: a name that does not exist.
        """
        for name, choices in (
            ("io", native.IO_MODES),
            ("cache_type", native.CACHE_TYPES),
            ("engine", native.IO_ENGINES),
            ("select", native.SELECTIONS),
            ("compute", native.COMPUTE),
            ("activations", native.ACTIVATIONS),
            ("kv_policy", native.KV_POLICIES),
        ):
            if getattr(self, name) not in choices:
                raise RuntimeFailure(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(choices)}")
        for name in (
            "context",
            "threads",
            "batch",
            "least_batch",
            "sessions",
            "io_threads",
            "io_depth",
            "window",
            "draft_tokens",
            "kv_window",
            "kv_sinks",
        ):
            if not 0 <= (getattr(self, name) or 0) < 1 << 31:
                raise RuntimeFailure(f"{name} is {getattr(self, name)}, which is out of range")
        return native.Options(
            threads=self.threads,
            budget_bytes=parse_bytes(self.ram),
            context=self.context,
            max_batch=self.batch,
            least_batch=self.least_batch,
            sessions=self.sessions,
            io_mode=native.IO_MODES[self.io],
            cache_type=native.CACHE_TYPES[self.cache_type],
            io_threads=self.io_threads,
            kernels=None if self.kernels is None else self.kernels.encode(),
            select=native.SELECTIONS[self.select],
            window_tokens=0 if self.window is None else self.window or native.WINDOW_NONE,
            io_engine=native.IO_ENGINES[self.engine],
            io_depth=self.io_depth,
            sparsity=self.sparsity,
            no_lookahead=0 if self.lookahead else 1,
            compute=native.COMPUTE[self.compute],
            draft_tokens=self.draft_tokens,
            activations=native.ACTIVATIONS[self.activations],
            lora=None if adapter is None else os.fsencode(adapter),
            kv_policy=native.KV_POLICIES[self.kv_policy],
            kv_window=self.kv_window,
            kv_sinks=0 if self.kv_sinks is None else self.kv_sinks or native.KV_NO_SINKS,
        )


@dataclass(frozen=True)
class Plan:
    """What the planner decided, in bytes (edgekit.h)."""

    context: int
    max_batch: int
    budget_bytes: int
    floor_bytes: int
    weight_bytes: int
    resident_bytes: int
    streamed_bytes: int
    kv_bytes: int
    activation_bytes: int
    stream_buffer_bytes: int
    window_bytes: int
    select: str


@dataclass(frozen=True)
class Stats:
    """Counters of a session and of the memory behind it (edgekit.h)."""

    io_direct: bool
    memory_bytes: int
    peak_memory_bytes: int
    bytes_read: int
    prompt_tokens: int
    generated_tokens: int
    prompt_seconds: float
    generation_seconds: float
    prompt_bytes_read: int
    generation_bytes_read: int
    io_wait_seconds: float
    neurons: int
    selected: int
    window_hits: int
    window_misses: int
    select_seconds: float
    read_seconds: float
    ffn_seconds: float
    manage_seconds: float
    read_operations: int
    io_uring: bool
    window_unused: int
    drafted_tokens: int
    accepted_tokens: int


@dataclass(frozen=True)
class Sampling:
    """How to choose a token; the defaults are llama.cpp's. temperature 0 is greedy.

    Attributes:
        presence_penalty: taken once from the logit of a token that the text has from `penalty_begin` on.
        frequency_penalty: taken as often as it has that token.
        penalty_begin: first token of the text that these two count, mostly the prompt's length.
        biases: pairs of a token and what is added to its logit.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_begin: int = 0
    biases: tuple[tuple[int, float], ...] = ()

    def native(self) -> native.Sampling:
        """As the C struct.

        Raises:
            RuntimeFailure: a count that is out of range.
        """
        for name in ("top_k", "repeat_last_n", "penalty_begin"):
            if getattr(self, name) >= 1 << 32:
                raise RuntimeFailure(f"{name} is {getattr(self, name)}, which is out of range")
        if any(not 0 <= token < 1 << 31 for token, _ in self.biases):
            raise RuntimeFailure("a bias is of a token that is outside the vocabulary")
        more: dict[str, object] = {}
        if self.biases:
            tokens, values = zip(*self.biases, strict=True)
            more["bias_tokens"] = (c.c_int32 * len(tokens))(*tokens)
            more["bias_values"] = (c.c_float * len(values))(*values)
        return native.Sampling(
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            repeat_last_n=max(0, self.repeat_last_n),
            seed=self.seed & (1 << 64) - 1,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            penalty_begin=max(0, self.penalty_begin),
            bias_count=len(self.biases),
            **more,
        )


def _pick(struct: c.Structure, names: Sequence[str]) -> dict[str, object]:
    return {n: getattr(struct, n) for n in names}


def stats_from(stats: native.Stats) -> Stats:
    """From the C struct."""
    values = _pick(stats, list(Stats.__dataclass_fields__))
    return Stats(**(values | {"io_direct": bool(stats.io_direct), "io_uring": bool(stats.io_uring)}))  # type: ignore[arg-type]


def plan_from(plan: native.Plan) -> Plan:
    """From the C struct."""
    names = {number: name for name, number in native.SELECTIONS.items()}
    values = _pick(plan, list(Plan.__dataclass_fields__)) | {"select": names[plan.select]}
    return Plan(**values)  # type: ignore[arg-type]


def token_ids(tokens: Sequence[SupportsIndex], vocab_size: int) -> list[int]:
    """Tokens as plain numbers.

    Raises:
        RuntimeFailure: one is no whole number, or outside the vocabulary.
    """
    try:
        ids = [operator.index(t) for t in tokens]
    except TypeError as error:
        raise RuntimeFailure(f"token ids are whole numbers ({error})") from error
    for token in ids:
        if not 0 <= token < vocab_size:
            raise RuntimeFailure(f"token {token} is outside the vocabulary of {vocab_size}")
    return ids
