"""Beginnings of prompts on flash: sessions whose tokens leave memory are saved, and loaded, not evaluated again."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BundleError, RuntimeFailure
from edgekit.generate.reuse import depends_on_length, shared_tokens
from edgekit.runtime.model import Model, saved_tokens
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.serve.prefix_folder import PrefixFolder

LEAST = 64  # tokens that a load or a file must save; fewer are evaluated about as fast


def can_keep(model: Mapping[str, Any], select: str) -> bool:
    """Whether sessions of a model can be saved and used for other prompts; `model`: the manifest's."""
    return model.get("output", "logits") == "logits" and select != "prompt" and not depends_on_length(dict(model))


class PrefixCache:
    """The files of one model in the folder, in the order of their tokens, so that those which share most with a prompt
    are its neighbours.

    What makes other keys and values is part of a file's name: the manifest (and with it the weights), the type of
    cache, what it keeps, the selection, the kind of activations and an adapter. Sessions look at the tokens again, so
    nothing hangs on the name.
    """

    def __init__(
        self,
        folder: PrefixFolder,
        manifest: Path,
        described: Mapping[str, Any],
        model: Model,
        options: Options,
    ) -> None:
        """Reads the tokens of the files that are there; one that is damaged is removed.

        Args:
            folder: where they lie.
            manifest: file of the bundle's manifest.
            described: its model.
            model: the same, opened.
            options: how it was opened.
        """
        plan = model.plan
        what = hashlib.sha256(manifest.read_bytes())
        policy = (options.kv_policy, options.kv_window, options.kv_sinks)
        what.update(f"{options.cache_type} {plan.select} {options.activations} {policy}".encode())
        lora = None if options.lora is None else Path(options.lora)
        for file in [] if lora is None else sorted(lora.iterdir()) if lora.is_dir() else [lora]:
            if file.is_file():
                with file.open("rb") as opened:
                    what.update(hashlib.file_digest(opened, "sha256").digest())
        self._folder, self._context, self._begin = folder, plan.context, what.hexdigest()[:16]
        # A session with a sliding window cannot go back to where another prompt goes on.
        self._windows = options.kv_policy != "full" or any(block.get("window") for block in described["blocks"])
        # A longer text serves for its beginnings too, if its session can go back to them at no cost.
        self._replaces = not self._windows and not any(b["kind"] in _WITH_STATE for b in described["blocks"])
        self._texts: list[bytes] = []  # sorted; tokens as 4 bytes, the high one first, so that their order is the ids'
        self._lengths: dict[int, int] = {}  # how many texts have so many tokens
        for name in folder.names(self._begin):
            self._read(name)

    def _read(self, name: str) -> None:
        path = self._folder.path / name
        try:
            text = _text(saved_tokens(path))
        except (BundleError, RuntimeFailure) as error:
            self._drop(name, str(error))
            return
        if name != self._name(text):
            self._drop(name, f"{path}: holds other tokens than its name says")
        elif len(text) <= 4 * self._context:
            self._insert(text)

    def _drop(self, name: str, why: str) -> None:
        self._folder.warn("damaged", f"{why}; the prefix cache removes such files")
        self._folder.remove(name)

    def _name(self, text: bytes) -> str:
        return f"{self._begin}-{hashlib.sha256(text).hexdigest()[:32]}.session"

    def _insert(self, text: bytes) -> None:
        bisect.insort(self._texts, text)
        self._lengths[len(text)] = self._lengths.get(len(text), 0) + 1

    def _forget(self, text: bytes) -> None:
        del self._texts[bisect.bisect_left(self._texts, text)]
        self._lengths[len(text)] -= 1
        if not self._lengths[len(text)]:
            del self._lengths[len(text)]

    def _find(self, ids: Sequence[int]) -> tuple[int, bytes]:
        """Tokens of a prompt that the best file saves, and its text; those that left meanwhile are forgotten."""
        text = _text(ids)
        while True:
            found = self._whole(text) if self._windows else self._neighbour(text)
            if not found or self._name(found) in self._folder:
                return (_shared(found, text) if found else 0), found
            self._forget(found)

    def _neighbour(self, text: bytes) -> bytes:
        """Which text shares most with another."""
        at = bisect.bisect_left(self._texts, text)
        return max(self._texts[max(0, at - 1) : at + 1], key=lambda t: _shared(t, text), default=b"")

    def _whole(self, text: bytes) -> bytes:
        """The longest text that another one begins with."""
        for length in sorted((n for n in self._lengths if n < len(text)), reverse=True):
            at = bisect.bisect_left(self._texts, text[:length])
            if at < len(self._texts) and self._texts[at] == text[:length]:
                return text[:length]
        return b""

    def covers(self, ids: Sequence[int]) -> bool:
        """Whether files have nearly all of a text, or it is too short to be worth one."""
        shared, _ = self._find([*ids, -1])  # the last one never counts
        return len(ids) < LEAST or len(ids) - shared < LEAST

    def save(self, session: Session) -> None:
        """Writes what a session holds to a file, if most of it is not in one yet."""
        ids = session.tokens
        if self.covers(ids):
            return
        text = _text(ids)
        _, known = self._find([*ids, -1])
        name = self._name(text)
        try:
            session.save(self._folder.path / name)
            self._folder.added(name)
        except (RuntimeFailure, BundleError, OSError) as error:
            self._folder.warn("write", f"{error}; texts are not kept while that is so")
            return
        self._insert(text)
        if known and self._replaces and text.startswith(known):
            self._forget(known)
            self._folder.remove(self._name(known))

    def gain(self, session: Session, ids: Sequence[int]) -> bool:
        """Whether a file has clearly more of a prompt's beginning than a session."""
        shared, _ = self._find(ids)
        return shared >= shared_tokens(session.tokens, ids) + LEAST

    def load(self, session: Session, ids: Sequence[int]) -> None:
        """Takes the beginning of a prompt from a file; what the session held is gone."""
        shared, text = self._find(ids)
        name = self._name(text)
        try:
            session.restore(self._folder.path / name)
        except (BundleError, RuntimeFailure) as error:
            self._forget(text)
            self._drop(name, str(error))
            return
        self._folder.loaded(name, shared)


_WITH_STATE = ("linear_attention", "convolution")


def _text(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype=np.int32).astype(">u4").tobytes()


def _shared(text: bytes, prompt: bytes) -> int:
    """Tokens that a text and a prompt begin with alike, but for the prompt's last one."""
    most = min(len(text), len(prompt) - 4) // 4
    differ = np.frombuffer(text, ">u4", most) != np.frombuffer(prompt, ">u4", most)
    return int(differ.argmax()) if differ.any() else most
