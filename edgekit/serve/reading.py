"""Texts that are to have vectors or scores, read a few at a time between the rounds of texts that are written."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekit.errors import EdgekitError
from edgekit.runtime.embedding import TokenText
from edgekit.serve.errors import ApiError, internal

if TYPE_CHECKING:
    from edgekit.serve.bundles import Bundles

TOKENS = 512  # of texts in one step, about; one text at least


@dataclass
class Reading:
    """A request for vectors or scores. Used by the scheduler's thread, but for `done`.

    Attributes:
        model: name of the bundle.
        texts: as tokens.
        normalize: whether vectors are divided by their length; None for as the model says.
        done: vectors f32 [texts, hidden_size] and scores f32 [texts], or an error. Cancel it to give the request up.
        deadline: `time.monotonic()` when it is too late.
        blocked: the last step found no room or no free session.
    """

    model: str
    texts: list[TokenText]
    normalize: bool | None = None
    done: Future[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]] = field(default_factory=Future)
    deadline: float = 0.0
    blocked: bool = False
    _vectors: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _scores: list[npt.NDArray[np.float32]] = field(default_factory=list)
    _read: int = 0

    def step(self, bundles: Bundles) -> bool:
        """Reads some texts; whether there is more to do."""
        if self.done.cancelled():
            return False
        if time.monotonic() > self.deadline:
            return self.fail(ApiError(503, "the request took longer than the server's time limit", "timeout"))
        try:
            return self._step(bundles)
        except EdgekitError as error:
            return self.fail(error)
        except Exception as error:
            return self.fail(internal(error))

    def _step(self, bundles: Bundles) -> bool:
        loaded = bundles.get(self.model)
        slot = None if loaded is None else loaded.free_slot(())
        self.blocked = slot is None
        if slot is None:
            return True
        end, tokens = self._read, 0
        while end < len(self.texts) and (end == self._read or tokens + len(self.texts[end].ids) <= TOKENS):
            tokens += len(self.texts[end].ids)
            end += 1
        slot.used = bundles.tick()
        found = slot.session.embed(self.texts[self._read : end], normalize=self.normalize)
        self._vectors.append(found.vectors)
        self._scores.append(found.scores)
        self._read = end
        if end < len(self.texts):
            return True
        if self.done.set_running_or_notify_cancel():
            self.done.set_result((np.concatenate(self._vectors), np.concatenate(self._scores)))
        return False

    def fail(self, error: EdgekitError) -> bool:
        """Ends it with an error; False, as there is no more to do."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)
        return False
