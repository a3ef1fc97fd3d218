"""How likely a model holds a continuation of a text, as lm-evaluation-harness asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import RuntimeFailure
from edgekit.evaluate.comparison import STEP, log_softmax
from edgekit.generate.loop import TextModel
from edgekit.generate.reuse import depends_on_length, shared_tokens
from edgekit.runtime.session import Session


@dataclass(frozen=True)
class Likelihood:
    """Of a continuation.

    Attributes:
        nats: logarithm of its probability.
        greedy: whether each of its tokens is the likeliest.
    """

    nats: float
    greedy: bool


class Judge:
    """Continuations by a model; texts that begin alike are read once."""

    def __init__(self, model: TextModel) -> None:
        """`model`: one that writes text."""
        self.model = model
        rewinds = isinstance(model.session, Session) and not depends_on_length(model.manifest["model"])
        self._rewinds = rewinds
        self._read: list[int] = []  # what the session holds

    @property
    def prefix(self) -> int:
        """The token that stands before a text without context: BOS, or else EOS.

        Raises:
            RuntimeFailure: the model has neither.
        """
        bos = self.model.manifest["model"].get("bos_token_id")
        if bos is not None:
            return int(bos)
        if not self.model.eos_token_ids:
            raise RuntimeFailure("the model has neither a BOS nor an EOS token to stand before a text without context")
        return self.model.eos_token_ids[0]

    def encode(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of both, cut where the context's own tokens end; spaces at its end belong to the continuation."""
        tokenizer = self.model.tokenizer
        if not context:
            ids = tokenizer.encode(continuation, special=False)
            return ([self.prefix], ids) if ids[:1] != [self.prefix] else (ids[:1], ids[1:])
        kept = context.rstrip()
        whole = tokenizer.encode(kept + context[len(kept) :] + continuation)
        begin = tokenizer.encode(kept)
        return whole[: len(begin)], whole[len(begin) :]

    def judge(self, context: Sequence[int], continuation: Sequence[int]) -> Likelihood:
        """The likelihood of a continuation; of a text longer than the model's context its last tokens are read.

        Args:
            context: token ids, at least one.
            continuation: token ids.

        Raises:
            RuntimeFailure: the continuation alone is longer than the model's context.
        """
        if not continuation:
            return Likelihood(0.0, True)
        most = self.model.plan.context
        if len(continuation) > most:
            raise RuntimeFailure(f"a continuation of {len(continuation)} tokens does not fit the context of {most}")
        text = [*context, *continuation][-(most + 1) :]
        inputs = text[:-1]
        first = len(inputs) - len(continuation)  # its logits are for the continuation's first token
        at = self._rewind(inputs, first)
        nats, greedy = 0.0, True
        while at < len(inputs):
            end = min(len(inputs), at + STEP) if at >= first else min(first, at + STEP)
            if at < first:
                self._eval(inputs[at:end])
            else:
                logs = log_softmax(self._logits(inputs[at:end]))
                targets = np.asarray(text[at + 1 : end + 1])
                nats += float(logs[np.arange(len(targets)), targets].sum())
                greedy = greedy and bool((logs.argmax(axis=1) == targets).all())
            at = end
        return Likelihood(nats, greedy)

    def _rewind(self, inputs: Sequence[int], first: int) -> int:
        """Keeps what the session has of a text, but for the tokens whose logits are wanted; how many that is."""
        shared = min(shared_tokens(self._read, [*inputs, -1]), first) if self._rewinds else 0
        session = self.model.session
        try:
            if shared and isinstance(session, Session):
                session.rewind(shared)
            else:
                shared = 0
                session.reset()
        except RuntimeFailure:  # layers with a sliding window no longer hold what these tokens look at
            shared = 0
            session.reset()
        self._read = list(inputs[:shared])
        return shared

    def _eval(self, ids: Sequence[int]) -> None:
        self.model.session.eval(ids)
        self._read += ids

    def _logits(self, ids: Sequence[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        out = self.model.session.logits(ids)
        self._read += ids
        return out
