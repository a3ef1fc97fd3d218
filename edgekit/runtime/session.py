"""One conversation on a model's weights: token ids in, logits and token ids out. No text, no engine."""

from __future__ import annotations

import ctypes as c
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from edgekit.errors import RuntimeFailure
from edgekit.runtime import native
from edgekit.runtime.embedding import Embedded, TokenText, embed_texts
from edgekit.runtime.handle import Handle
from edgekit.runtime.model import Model, encoded
from edgekit.runtime.pictures import Given, digest_of, encode_patches
from edgekit.runtime.values import Options, Plan, Sampling, Stats, stats_from, token_ids

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint32]


def _whole(name: str, value: SupportsIndex) -> int:
    """A number as the ABI's uint32_t.

    Raises:
        RuntimeFailure: it is out of range.
    """
    number = operator.index(value)
    if not 0 <= number < 1 << 32:
        raise RuntimeFailure(f"{name} is {number}, which is out of range")
    return number


class LogitSampler:
    """Chooses tokens as sessions do, from logits that another engine computed."""

    def __init__(self) -> None:
        """Begins with no seed."""
        self.reset()

    def reset(self) -> None:
        """The next token is drawn from the seed again."""
        self._state: c.c_uint64 | None = None

    def sample(self, logits: F32, history: Sequence[int], sampling: Sampling) -> int:
        """A token from logits f32 [vocab_size]; `history`: the tokens so far.

        Raises:
            RuntimeFailure: the logits are not finite.
        """
        settings, token = sampling.native(), c.c_int32()
        self._state = self._state or c.c_uint64(settings.seed)
        given = np.ascontiguousarray(logits, dtype=np.float32)
        ids = (c.c_int32 * len(history))(*history)
        at = given.ctypes.data_as(c.c_void_p)
        state = c.byref(self._state)
        native.call("sample", at, len(given), c.byref(settings), ids, len(history), state, c.byref(token))
        return token.value


class Session:
    """Tokens and their keys and values. Use it as a context manager, or call `close`. One thread at a time uses it;
    `cancel`, `stats` and `close` may come from others.

    Attributes:
        model: the weights, which other sessions may share.
        draft: the session of a smaller model that drafts for this one.
    """

    def __init__(self, source: Model | str | Path, options: Options | None = None) -> None:
        """Begins a conversation.

        Args:
            source: a model; or a bundle, which is then opened for this session alone and closed with it.
            options: how to open the bundle.

        Raises:
            BundleError: not a bundle, or damaged.
            BudgetError: the budget is below the floor, which the message names, or has no room for a session more.
        """
        self._owns_model = not isinstance(source, Model)
        self.model = source if isinstance(source, Model) else Model(source, options)
        self.draft: Session | None = None
        self._fill: Callable[[Mask], None] | None = None
        self._given: list[Given] = []
        made = c.c_void_p()
        try:
            with self.model.handle.use() as model:
                native.call("session_create", model, c.byref(made))
        except BaseException:
            if self._owns_model:
                self.model.close()
            raise
        self.handle = Handle(made, "session", native.library().edgekit_session_destroy)
        self.model.register(self)

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        return self.model.vocab_size

    @property
    def hidden_size(self) -> int:
        """Values of a token between blocks."""
        return self.model.hidden_size

    @property
    def threads(self) -> int:
        """Compute threads."""
        return self.model.threads

    @property
    def kernels(self) -> str:
        """Kernel set in use."""
        return self.model.kernels

    @property
    def plan(self) -> Plan:
        """What the planner decided."""
        return self.model.plan

    def set_budget(self, ram: str | int | None) -> None:
        """Changes the model's budget; see `Model.set_budget`."""
        self.model.set_budget(ram)

    def close(self) -> None:
        """Frees the session, its draft session, and the model if it is its own; safe to call twice. An evaluation
        under way is cancelled."""
        self.handle.close(before=native.library().edgekit_session_cancel)
        if self.draft is not None:
            self.draft.close()
        if self._owns_model:
            self.model.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            self.close()

    def _call(self, name: str, *arguments: Any) -> None:
        with self.handle.use() as handle:
            native.call(f"session_{name}", handle, *arguments)

    def eval(self, tokens: Sequence[SupportsIndex]) -> None:
        """Appends tokens.

        Raises:
            RuntimeFailure: no room in the context, a token out of range, logits that are not finite, or cancelled.
            BundleError: a unit that was read is damaged.
        """
        ids = token_ids(tokens, self.vocab_size)
        self._call("eval", (c.c_int32 * len(ids))(*ids), len(ids), 0, None)

    def read(self, tokens: Sequence[SupportsIndex]) -> None:
        """Reads a text from its beginning, for those who capture: what it gives is not wanted.

        Raises:
            RuntimeFailure, BundleError: as `eval`.
        """
        self.reset()
        if self.model.output == "logits":
            self.logits(tokens)
        else:
            self.embed([TokenText(tuple(token_ids(tokens, self.vocab_size)))])

    def logits(self, tokens: Sequence[SupportsIndex]) -> F32:
        """Appends tokens and returns their logits, f32 [len(tokens), vocab_size].

        Raises:
            RuntimeFailure, BundleError: as `eval`.
        """
        ids = token_ids(tokens, self.vocab_size)
        out = np.empty((len(ids), self.vocab_size), dtype=np.float32)
        self._call("eval", (c.c_int32 * len(ids))(*ids), len(ids), 1, out.ctypes.data_as(c.c_void_p))
        return out

    def eval_embeddings(self, rows: F32, tokens: Sequence[SupportsIndex], both_ways: bool = False) -> None:
        """Appends positions whose embeddings are given, as an encoder makes them of a picture
        (edgekit_session_eval_embeddings).

        Args:
            rows: f32 [len(tokens), hidden_size], scaled and projected already.
            tokens: what stands in the text at these positions, as the placeholder of a picture.
            both_ways: whether each of them sees all of them; they must then fit in a pass (`Plan.max_batch`).

        Raises:
            RuntimeFailure, BundleError: as `eval`; or rows of another shape, or that are not finite.
        """
        self._eval_embeddings(rows, tokens, both_ways, 0, None)

    def embedding_logits(self, rows: F32, tokens: Sequence[SupportsIndex], both_ways: bool = False) -> F32:
        """The same; returns their logits, f32 [len(tokens), vocab_size]."""
        out = np.empty((len(tokens), self.vocab_size), dtype=np.float32)
        self._eval_embeddings(rows, tokens, both_ways, 1, out.ctypes.data_as(c.c_void_p))
        return out

    def _eval_embeddings(
        self, rows: F32, tokens: Sequence[SupportsIndex], both_ways: bool, all_logits: int, out: c.c_void_p | None
    ) -> None:
        ids = token_ids(tokens, self.vocab_size)
        given = np.ascontiguousarray(rows, dtype=np.float32)
        if given.shape != (len(ids), self.hidden_size):
            raise RuntimeFailure(f"the embeddings have shape {given.shape}, not {(len(ids), self.hidden_size)}")
        listed = (c.c_int32 * max(1, len(ids)))(*ids)
        at = c.cast(listed, c.POINTER(c.c_int32))
        rows_at = given.ctypes.data_as(c.c_void_p)
        struct = native.Input(
            count=len(ids), tokens=at, rows=rows_at, columns=self.hidden_size, both_ways=int(both_ways)
        )
        begin = self.position
        try:
            self._call("eval_embeddings", c.byref(struct), all_logits, out)
        finally:  # of a call that failed, sliding windows may keep the first positions
            end = self.position
            if end > begin:
                self._given.append(Given(begin, end, digest_of(given[: end - begin])))

    @property
    def given(self) -> tuple[Given, ...]:
        """Which positions were given as embeddings, in order; the others are known by their tokens."""
        return tuple(self._given)

    def encode(
        self, patches: F32, positions: Sequence[int] | npt.NDArray[np.uint32] | None, added: F32 | None = None
    ) -> F32:
        """What a decoder reads of a picture, f32 [rows, columns], by an encoder of pictures (edgekit_session_encode).

        Args:
            patches: f32 [count, values], those that become one row side by side.
            positions: [count], of each patch in the encoder's table; None with `added`.
            added: f32 [count, hidden_size], what is added to each patch in place of a row of that table.

        Raises:
            RuntimeFailure: the model is no such encoder, the patches have another shape, a position is out of range,
                or it was cancelled.
            BundleError: a unit that was read is damaged.
        """
        return encode_patches(self.handle, self.model.picture_sizes, patches, positions, added)

    def next(self, sampling: Sampling) -> int:
        """The next token of the text: appends the one that the last call chose, and chooses another
        (edgekit_session_next). The last one chosen is not part of the session yet; `eval` and `rewind` forget it.

        Raises:
            ContextFullError: no room for the last one.
            RuntimeFailure, BundleError: as `eval`; the session is as before, and may be asked again.
        """
        token, settings = c.c_int32(), sampling.native()
        with nullcontext() if self.draft is None else self._drafting(self.draft):
            if self._fill is not None:
                self._call("advance")  # the pass, during which another thread may compute the mask
                mask = np.full((self.vocab_size + 31) // 32, 0xFFFFFFFF, dtype=np.uint32)
                self._fill(mask)
                settings.mask, settings.mask_words = mask.ctypes.data_as(c.POINTER(c.c_uint32)), len(mask)
            self._call("next", c.byref(settings), c.byref(token))
        return token.value

    @contextmanager
    def _drafting(self, draft: Session) -> Iterator[None]:
        """Within it, no other thread closes the draft session."""
        if draft.handle.closed:
            raise RuntimeFailure("the draft session is closed; set another with draft_with")
        with draft.handle.use():
            yield

    def mask_with(self, fill: Callable[[Mask], None] | None) -> None:
        """Constrains what `next` chooses; also with drafts.

        Args:
            fill: called before a token is chosen, when the pass is done, with a mask u32 [ceil(vocab_size / 32)], all
                bits set; it clears bit token % 32 of word token // 32 of each token that may not be chosen. What it
                raises, `next` raises: the token that was chosen last is then part of the text. None: every token may
                be chosen.
        """
        with self.handle.use():
            self._fill = fill

    def logprobs(self, count: int) -> tuple[float, list[tuple[int, float]]]:
        """About the token that `next` chose last: its logarithm of the probability by the model alone, without what
        sampling does; and (token, logarithm) of the `count` most probable tokens, best first.

        Raises:
            RuntimeFailure: none was chosen last, or the vocabulary has fewer tokens.
        """
        most = _whole("count", count)
        tokens, values, chosen = (c.c_int32 * most)(), (c.c_float * most)(), c.c_float()
        self._call("logprobs", c.byref(chosen), tokens, values, most)
        return chosen.value, list(zip(tokens, values, strict=True))

    def embed(
        self,
        texts: Sequence[TokenText],
        pooling: str | None = None,
        normalize: bool | None = None,
        states: bool = False,
    ) -> Embedded:
        """Vectors of texts, and the scores that a reranker gives them (edgekit_session_embed). The session's own tokens
        are forgotten.

        Args:
            texts: their tokens.
            pooling: "cls", "mean", "max" or "last"; None for the bundle's, or "last" where it has none.
            normalize: whether vectors are divided by their length; None for what the bundle says.
            states: whether the hidden states of the tokens are wanted too.

        Raises:
            ContextFullError: a text is longer than the context.
            RuntimeFailure, BundleError: as `eval`.
        """
        with self.handle.use() as handle:
            return embed_texts(handle, texts, (self.vocab_size, self.hidden_size), pooling, normalize, states)

    def draft_with(self, draft: Session | None) -> None:
        """Drafts come from a smaller model with the same vocabulary, whose session from now on belongs to this one;
        None: from the text so far.

        Raises:
            RuntimeFailure: another vocabulary, it drafts for another session, or this model was not opened with
                `draft_tokens`.
        """
        if draft is None:
            self._call("set_draft", None)
        else:
            with draft.handle.use() as handle:
                self._call("set_draft", handle)
        if self.draft is not None and self.draft is not draft:
            self.draft.close()
        self.draft = draft

    def save(self, path: str | Path) -> None:
        """Writes tokens, keys and values to a file, which appears when it is whole.

        Raises:
            RuntimeFailure: it cannot be written, or the selection keeps what a file does not hold.
        """
        self._call("save", encoded(path))

    def restore(self, path: str | Path) -> None:
        """Goes on from a saved session of the same bundle; there are no logits until a token is evaluated.

        Raises:
            BundleError: missing or damaged; the session is as after a reset.
            RuntimeFailure: of another bundle or type of cache, or longer than the context.
        """
        self._given = []
        self._call("restore", encoded(path))

    def rewind(self, position: SupportsIndex) -> None:
        """Forgets the tokens from `position` on.

        Raises:
            RuntimeFailure: there are fewer, or it is negative.
        """
        self._call("rewind", _whole("position", position))
        self._forget_given(operator.index(position))

    def _forget_given(self, position: int) -> None:
        self._given = [given.until(position) for given in self._given if given.begin < position]

    def copy_from(self, other: Session, position: SupportsIndex) -> None:
        """Begins as another session of the model does, with its first `position` tokens; no thread may use that one
        meanwhile.

        Raises:
            RuntimeFailure: of another model, it has fewer tokens, layers with a sliding window no longer hold what
                comes before that position, or the selection keeps what is not copied.
        """
        with other.handle.use() as source:
            self._given = list(other.given)
            self._call("copy", source, _whole("position", position))
            self._forget_given(operator.index(position))

    @property
    def tokens(self) -> list[int]:
        """The tokens so far."""
        with self.handle.use() as handle:
            lib = native.library()
            ids = (c.c_int32 * max(1, lib.edgekit_session_position(handle)))()
            count: int = lib.edgekit_session_tokens(handle, ids, len(ids))
            return list(ids[:count])

    @property
    def position(self) -> int:
        """Number of tokens so far."""
        with self.handle.use() as handle:
            return int(native.library().edgekit_session_position(handle))

    def feed_forward(self, block: int, x: F32) -> F32:
        """One feed-forward block on x f32 [tokens, hidden_size], after its norm; needs other `compute` than "all".

        Raises:
            RuntimeFailure: not such a block, or x of another width.
            BundleError: a unit that was read is damaged.
        """
        if x.ndim != 2 or x.shape[1] != self.hidden_size:
            raise RuntimeFailure(f"x has shape {x.shape}, not [tokens, {self.hidden_size}]")
        given, out = np.ascontiguousarray(x, dtype=np.float32), np.empty(x.shape, dtype=np.float32)
        index, step = _whole("block", block), self.plan.max_batch
        for begin in range(0, len(given), step):
            rows, to = given[begin : begin + step], out[begin : begin + step]
            source, target = (a.ctypes.data_as(c.c_void_p) for a in (rows, to))
            self._call("feed_forward", index, source, len(rows), target)
        return out

    def reset(self) -> None:
        """Forgets all tokens."""
        self._given = []
        with self.handle.use() as handle:
            native.library().edgekit_session_reset(handle)

    def cancel(self) -> None:
        """Ends the evaluation that another thread is in."""
        with self.handle.use() as handle:
            native.library().edgekit_session_cancel(handle)

    @contextmanager
    def capturing(self, take: Callable[[int, F32], None]) -> Iterator[None]:
        """Within it, `take(block, x)` gets the input of every feed-forward block, f32 [tokens, hidden_size]."""
        hidden = self.hidden_size

        def capture(block: int, x: Any, tokens: int, stride: int, user: object) -> None:
            rows = np.ctypeslib.as_array(x, shape=(tokens, stride))
            take(block, rows[:, :hidden].copy())

        function = native.Capture(capture)
        with self.handle.use() as handle:
            native.library().edgekit_session_capture(handle, function, None)
        try:
            yield
        finally:
            if not self.handle.closed:
                with self.handle.use() as handle:
                    native.library().edgekit_session_capture(handle, native.Capture(), None)

    @contextmanager
    def capturing_inputs(self, take: Callable[[int, int, F32], None]) -> Iterator[None]:
        """Within it, `take(matrix, part, x)` gets the inputs of matrices, f32 [tokens, stride], in passes of several
        tokens; `x` is only valid during the call, and longer than a row by its padding."""

        def capture(matrix: int, part: int, x: Any, tokens: int, stride: int, user: object) -> None:
            take(matrix, part, np.ctypeslib.as_array(x, shape=(tokens, stride)))

        function = native.InputsCapture(capture)
        with self.handle.use() as handle:
            native.library().edgekit_session_capture_inputs(handle, function, None)
        try:
            yield
        finally:
            if not self.handle.closed:
                with self.handle.use() as handle:
                    native.library().edgekit_session_capture_inputs(handle, native.InputsCapture(), None)

    @property
    def stats(self) -> Stats:
        """Counters so far."""
        stats = native.Stats()
        self._call("stats", c.byref(stats))
        return stats_from(stats)
