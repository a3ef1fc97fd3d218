"""Core ML packages and Core AI models by our interpreters, which run anywhere: to check them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.codecs.base import F32
from edgekit.converters import base
from edgekit.converters.base import Artifact
from edgekit.converters.engines import Engine
from edgekit.converters.weights import Json
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options


class PackageEngine(Engine):
    """A Core ML package."""

    def __init__(self, artifact: Artifact, model: Json) -> None:
        super().__init__(artifact, model)
        module = base.load("coreml", "coreml.interpreter")
        self.program = module.Program(artifact.path / "model.mlpackage")
        self.chunk: int = artifact.about["chunk"]
        self.reset()

    def reset(self) -> None:
        self.program.reset()
        self.position = 0

    def __call__(self, tokens: Sequence[int]) -> F32:
        return chunked(self, self._call, tokens)

    def _call(self, function: str, ids: Any) -> Any:
        return self.program.run(function, ids=ids, position=np.array([self.position], np.int32))["logits"][0]


class FlashPackageEngine(PackageEngine):
    """The flash variant: stretches of the package, and between them feed-forward blocks of the native runtime."""

    def __init__(self, artifact: Artifact, model: Json, bundle: Path, options: Options) -> None:
        super().__init__(artifact, model)
        self.blocks = Session(bundle, options)
        self.names = base.load("coreml-flash")

    def _call(self, function: str, ids: Any) -> Any:
        assert self.blocks is not None
        position = np.array([self.position], np.int32)
        out = self.program.run(self.names.stretch_name(None, function), ids=ids, position=position)
        for after in self.names.stretches(self.model)[1:]:
            computed = self.blocks.feed_forward(after, out["input"][0].astype(np.float32))[None]
            given = {"residual": out["residual_out"], "out": computed.astype(out["residual_out"].dtype)}
            out = self.program.run(self.names.stretch_name(after, function), position=position, **given)
        return out["logits"][0]


class CoreAiEngine(Engine):
    """A Core AI model."""

    def __init__(self, artifact: Artifact, model: Json) -> None:
        super().__init__(artifact, model)
        module = base.load("coreai", "coreai.interpreter")
        self.program = module.Program(artifact.path / "model.aimodel")
        self.chunk: int = artifact.about["chunk"]
        self.reset()

    def reset(self) -> None:
        kind = np.float16 if self.artifact.about["precision"] == "f16" else np.float32
        blocks = [b for b in self.model["blocks"] if b["kind"] == "attention"]
        self.caches = [np.zeros((1, b["kv_heads"], self.context, b["head_dim"]), kind) for b in blocks for _ in "kv"]
        self.position = 0

    def __call__(self, tokens: Sequence[int]) -> F32:
        return chunked(self, self._call, tokens)

    def _call(self, function: str, ids: Any) -> Any:
        logits, *self.caches = self.program.run(function, ids, np.array([self.position], np.int32), *self.caches)
        return logits[0]


def chunked(engine: Any, call: Callable[[str, Any], Any], tokens: Sequence[int]) -> F32:
    """Tokens through an engine's `prefill` and `decode`, position counted."""
    out = []
    for begin, end in pieces(len(tokens), engine.position, engine.chunk, engine.context):
        part = list(tokens[begin:end])
        size = engine.chunk if end - begin > 1 else 1
        ids = np.array([part + [0] * (size - len(part))], np.int32)
        out.append(call("prefill" if size > 1 else "decode", ids)[: len(part)])
        engine.position += len(part)
    logits: F32 = np.concatenate(out).astype(np.float32)
    return logits


def pieces(count: int, position: int, chunk: int, context: int) -> list[tuple[int, int]]:
    """How a prompt is cut: whole chunks, a filled-up one where the cache has room for it, else single tokens."""
    out, at = [], 0
    while at < count:
        rest = min(chunk, count - at)
        size = rest if rest > 1 and position + at + chunk <= context else 1
        out.append((at, at + size))
        at += size
    return out
