"""The Python face of the runtime: token ids in, logits and token ids out. No text, no engine."""

from __future__ import annotations

import ctypes as c
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from edgekit.errors import RuntimeFailure
from edgekit.runtime import native
from edgekit.sizes import parse_bytes

F32 = npt.NDArray[np.float32]


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
    parts: str = "all"  # or "feed_forward", "products": another engine has the rest
    draft: int = 0  # most tokens guessed and then checked in one pass

    def native(self) -> native.Options:
        """As the C struct.

        Raises:
            RuntimeFailure: a name that does not exist.
        """
        if self.io not in native.IO_MODES or self.cache_type not in native.KV_TYPES:
            raise RuntimeFailure(f"io is one of {list(native.IO_MODES)}, cache_type one of {list(native.KV_TYPES)}")
        if self.engine not in native.ENGINES or self.select not in native.SELECTIONS:
            raise RuntimeFailure(f"engine is one of {list(native.ENGINES)}, select one of {list(native.SELECTIONS)}")
        if self.parts not in native.PARTS:
            raise RuntimeFailure(f"parts is one of {list(native.PARTS)}")
        for name in ("context", "threads", "batch", "sessions", "io_threads", "io_depth", "window", "draft"):
            if not 0 <= (getattr(self, name) or 0) < 1 << 31:
                raise RuntimeFailure(f"{name} is {getattr(self, name)}, which is out of range")
        return native.Options(
            threads=self.threads,
            ram_bytes=parse_bytes(self.ram),
            context=self.context,
            max_batch=self.batch,
            sessions=self.sessions,
            io_mode=native.IO_MODES[self.io],
            kv_type=native.KV_TYPES[self.cache_type],
            io_threads=self.io_threads,
            kernels=None if self.kernels is None else self.kernels.encode(),
            select=native.SELECTIONS[self.select],
            window=0 if self.window is None else self.window or native.WINDOW_NONE,
            io_engine=native.ENGINES[self.engine],
            io_depth=self.io_depth,
            sparsity=self.sparsity,
            no_lookahead=0 if self.lookahead else 1,
            parts=native.PARTS[self.parts],
            draft_tokens=self.draft,
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
    window_vain: int
    drafted_tokens: int
    accepted_tokens: int


@dataclass(frozen=True)
class Sampling:
    """How to choose a token; the defaults are llama.cpp's. temperature 0 is greedy."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int = 0

    def native(self) -> native.Sampling:
        """As the C struct."""
        return native.Sampling(
            temperature=self.temperature,
            top_k=max(0, self.top_k),
            top_p=self.top_p,
            min_p=self.min_p,
            repeat_penalty=self.repeat_penalty,
            repeat_last_n=max(0, self.repeat_last_n),
            seed=self.seed & (1 << 64) - 1,
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


def plan_bundle(path: str | Path, options: Options) -> Plan:
    """What opening would do, without loading weights.

    Raises:
        BudgetError: the budget is below the floor.
        BundleError: not a bundle, or damaged.
    """
    plan, error = native.Plan(), native.Error()
    opts = options.native()
    status = native.library().edgekit_plan_bundle(_path(path), c.byref(opts), c.byref(plan), c.byref(error))
    native.check(status, error)
    return plan_from(plan)


def verify_units(path: str | Path) -> None:
    """Reads every unit of a bundle and compares its checksum.

    Raises:
        BundleError: damaged.
    """
    error = native.Error()
    native.check(native.library().edgekit_verify_bundle(_path(path), c.byref(error)), error)


def kernel_sets() -> list[str]:
    """Kernel sets that this CPU can run, best first."""
    names: bytes = native.library().edgekit_kernel_sets()
    return names.decode().split(",")


def process_peak_bytes() -> int:
    """Most memory that this process ever had resident, interpreter included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _path(path: str | Path) -> bytes:
    return os.fsencode(path)


class LogitSampler:
    """Chooses tokens as sessions do, from logits that another engine computed."""

    def __init__(self) -> None:
        self._lib, self._error = native.library(), native.Error()
        self.reset()

    def reset(self) -> None:
        """The next token is drawn from the seed again."""
        self._state: c.c_uint64 | None = None

    def sample(self, logits: F32, history: Sequence[int], sampling: Sampling) -> int:
        """A token from logits f32 [vocab_size]; `history`: the tokens so far."""
        how, token = sampling.native(), c.c_int32()
        self._state = self._state or c.c_uint64(how.seed)
        given = np.ascontiguousarray(logits, dtype=np.float32)
        ids = (c.c_int32 * len(history))(*history)
        at = given.ctypes.data_as(c.c_void_p)
        status = self._lib.edgekit_sample(
            at, len(given), c.byref(how), ids, len(history), c.byref(self._state), c.byref(token), c.byref(self._error)
        )
        native.check(status, self._error)
        return token.value


class Session:
    """A loaded bundle with one session. Use it as a context manager, or call `close`."""

    def __init__(self, path: str | Path, options: Options | None = None) -> None:
        """Opens a bundle.

        Raises:
            BundleError: not a bundle, or damaged.
            BudgetError: the budget is below the floor, which the message names.
        """
        self._lib, self._error = native.library(), native.Error()
        self._model, self._session = c.c_void_p(), c.c_void_p()
        self.draft: Session | None = None  # that guesses for this one
        opts = (options or Options()).native()
        self.draft_tokens: int = opts.draft_tokens
        self._check(
            self._lib.edgekit_model_open(_path(path), c.byref(opts), c.byref(self._model), c.byref(self._error))
        )
        try:
            status = self._lib.edgekit_session_create(self._model, c.byref(self._session), c.byref(self._error))
            self._check(status)
        except BaseException:
            self.close()
            raise
        info = native.Info()
        self._lib.edgekit_model_info(self._model, c.byref(info))
        self.vocab_size: int = info.vocab_size
        self.hidden_size: int = info.hidden_size
        self.threads: int = info.threads
        self.kernels: str = info.kernels.decode()

    def _check(self, status: int) -> None:
        native.check(status, self._error)

    def _open(self) -> c.c_void_p:
        if not self._session:
            raise RuntimeFailure("the model is closed")
        return self._session

    def close(self) -> None:
        """Frees everything; safe to call twice."""
        if self._session:
            self._lib.edgekit_session_destroy(self._session)
            self._session = c.c_void_p()
        if self._model:
            self._lib.edgekit_model_close(self._model)
            self._model = c.c_void_p()
        if self.draft is not None:
            self.draft.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_model"):
            self.close()

    def eval(self, tokens: Sequence[int]) -> None:
        """Appends tokens.

        Raises:
            RuntimeFailure: no room in the context, a token out of range, or cancelled.
            BundleError: a unit that was read is damaged.
        """
        ids = (c.c_int32 * len(tokens))(*tokens)
        self._check(self._lib.edgekit_session_eval(self._open(), ids, len(tokens), 0, None, c.byref(self._error)))

    def logits(self, tokens: Sequence[int]) -> F32:
        """Appends tokens and returns their logits, f32 [len(tokens), vocab_size].

        Raises:
            RuntimeFailure, BundleError: as `eval`.
        """
        out = np.empty((len(tokens), self.vocab_size), dtype=np.float32)
        ids = (c.c_int32 * len(tokens))(*tokens)
        at = out.ctypes.data_as(c.c_void_p)
        self._check(self._lib.edgekit_session_eval(self._open(), ids, len(tokens), 1, at, c.byref(self._error)))
        return out

    def save(self, path: str | Path) -> None:
        """Writes tokens, keys and values to a file, which appears when it is whole.

        Raises:
            RuntimeFailure: it cannot be written, or the selection keeps what a file does not hold.
        """
        self._check(self._lib.edgekit_session_save(self._open(), _path(path), c.byref(self._error)))

    def restore(self, path: str | Path) -> None:
        """Goes on from a saved session of the same bundle; there are no logits until a token is evaluated.

        Raises:
            BundleError: missing or damaged; the session is as after a reset.
            RuntimeFailure: of another bundle or type of cache, or longer than the context.
        """
        self._check(self._lib.edgekit_session_restore(self._open(), _path(path), c.byref(self._error)))

    def rewind(self, position: int) -> None:
        """Forgets the tokens from `position` on.

        Raises:
            RuntimeFailure: there are fewer.
        """
        self._check(self._lib.edgekit_session_rewind(self._open(), max(0, position), c.byref(self._error)))

    @property
    def tokens(self) -> list[int]:
        """The tokens so far."""
        ids = (c.c_int32 * max(1, self.position))()
        return ids[: self._lib.edgekit_session_tokens(self._open(), ids, self.position)]

    def feed_forward(self, block: int, x: F32) -> F32:
        """One feed-forward block on x f32 [tokens, hidden], after its norm; needs other `parts` than "all".

        Raises:
            RuntimeFailure: not such a block, or x of another width.
            BundleError: a unit that was read is damaged.
        """
        if x.ndim != 2 or x.shape[1] != self.hidden_size:
            raise RuntimeFailure(f"x has shape {x.shape}, not [tokens, {self.hidden_size}]")
        given, out = np.ascontiguousarray(x, dtype=np.float32), np.empty(x.shape, dtype=np.float32)
        step = self.plan.max_batch
        for begin in range(0, len(given), step):
            rows, to = given[begin : begin + step], out[begin : begin + step]
            source, target = (a.ctypes.data_as(c.c_void_p) for a in (rows, to))
            status = self._lib.edgekit_session_feed_forward(
                self._open(), block, source, len(rows), target, c.byref(self._error)
            )
            self._check(status)
        return out

    def draft_with(self, draft: Session) -> None:
        """Guesses come from a smaller model with the same vocabulary, which from now on belongs to this session.

        Raises:
            RuntimeFailure: another vocabulary, or this model was not opened with `draft`.
        """
        self._check(self._lib.edgekit_session_set_draft(self._open(), draft._open(), c.byref(self._error)))
        if self.draft is not None:
            self.draft.close()
        self.draft = draft

    def guess(self, token: int) -> list[int]:
        """Tokens that may follow one that was chosen and not yet appended (edgekit_session_guess).

        Raises:
            RuntimeFailure: this model or its selection takes no drafts.
        """
        room = max(1, self.draft_tokens)
        ids, count = (c.c_int32 * room)(), c.c_uint32()
        status = self._lib.edgekit_session_guess(self._open(), token, ids, room, c.byref(count), c.byref(self._error))
        self._check(status)
        return ids[: count.value]

    def verify(self, tokens: Sequence[int], sampling: Sampling) -> tuple[int, int]:
        """Evaluates a chosen token and guesses behind it in one pass, and appends those that sampling agrees with.

        Returns:
            How many were appended, the first always; and the token sampled after them.

        Raises:
            RuntimeFailure, BundleError: as `eval`.
        """
        ids, how = (c.c_int32 * len(tokens))(*tokens), sampling.native()
        kept, following = c.c_uint32(), c.c_int32()
        status = self._lib.edgekit_session_verify(
            self._open(), ids, len(tokens), c.byref(how), c.byref(kept), c.byref(following), c.byref(self._error)
        )
        self._check(status)
        return kept.value, following.value

    def sample(self, sampling: Sampling) -> int:
        """A token chosen from the logits of the last one; does not append it."""
        token, how = c.c_int32(), sampling.native()
        status = self._lib.edgekit_session_sample(self._open(), c.byref(how), c.byref(token), c.byref(self._error))
        self._check(status)
        return token.value

    def reset(self) -> None:
        """Forgets all tokens."""
        self._lib.edgekit_session_reset(self._open())

    def cancel(self) -> None:
        """Ends the evaluation that another thread is in."""
        self._lib.edgekit_session_cancel(self._open())

    def set_budget(self, ram: str | int | None) -> None:
        """Changes the memory budget; memory is given back before this returns. Results stay the same.

        Raises:
            BudgetError: below what buffers and sessions hold; nothing was changed.
        """
        status = self._lib.edgekit_model_set_budget(self._model, parse_bytes(ram), c.byref(self._error))
        self._check(status)

    @contextmanager
    def capturing(self, take: Callable[[int, F32], None]) -> Iterator[None]:
        """Within it, `take(block, x)` gets the input of every feed-forward block, f32 [tokens, hidden]."""
        hidden = self.hidden_size

        def capture(block: int, x: object, tokens: int, stride: int, user: object) -> None:
            rows = np.ctypeslib.as_array(x, shape=(tokens, stride))
            take(block, rows[:, :hidden].copy())

        function = native.Capture(capture)
        self._lib.edgekit_session_capture(self._open(), function, None)
        try:
            yield
        finally:
            self._lib.edgekit_session_capture(self._open(), native.Capture(), None)

    @property
    def position(self) -> int:
        """Tokens so far."""
        return int(self._lib.edgekit_session_position(self._open()))

    @property
    def plan(self) -> Plan:
        """What the planner decided."""
        plan = native.Plan()
        self._lib.edgekit_model_plan(self._model, c.byref(plan))
        return plan_from(plan)

    @property
    def stats(self) -> Stats:
        """Counters so far."""
        stats = native.Stats()
        self._lib.edgekit_session_stats(self._open(), c.byref(stats))
        return stats_from(stats)
