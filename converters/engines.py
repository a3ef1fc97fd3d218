"""Running artifacts: what each format's own runtime needs to turn token ids into logits."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle import manifest
from edgekit.codecs.base import F32
from edgekit.converters import base
from edgekit.converters.base import Artifact
from edgekit.converters.weights import Json
from edgekit.errors import ConvertError
from edgekit.native import SELECTIONS, library_path
from edgekit.runtime import Options, Plan, Session, Stats, operator_counters, parse_bytes


class Engine(ABC):
    """An artifact, opened. `blocks` is the native session behind a flash variant, where Python calls it."""

    blocks: Session | None = None

    def __init__(self, artifact: Artifact, model: Json) -> None:
        self.artifact, self.model = artifact, model
        self.context: int = artifact.about["context"]

    @abstractmethod
    def __call__(self, tokens: Sequence[int]) -> F32:
        """Appends tokens; their logits f32 [tokens, vocab_size]."""

    @abstractmethod
    def reset(self) -> None:
        """Forgets all tokens."""

    def counters(self) -> tuple[Stats, Plan] | None:
        """Of the native runtime behind a flash variant, else None."""
        return (self.blocks.stats, self.blocks.plan) if self.blocks is not None else None

    def close(self) -> None:
        """Frees the memory."""
        if self.blocks is not None:
            self.blocks.close()


class OnnxEngine(Engine):
    """onnxruntime, on the CPU; with `onnx-flash` the custom operator reads from the bundle."""

    def __init__(self, artifact: Artifact, model: Json, bundle: Path, options: Options) -> None:
        super().__init__(artifact, model)
        import onnxruntime as ort

        given = ort.SessionOptions()
        given.log_severity_level = 4  # errors come as exceptions
        given.intra_op_num_threads = options.threads
        if artifact.kind == "onnx-flash":
            entries = {
                "bundle": str(bundle),
                "ram": str(parse_bytes(options.ram)),
                "threads": str(options.threads),
                "select": str(SELECTIONS[options.select]),
                "id": f"{id(self)}",
            }
            for name, value in entries.items():
                given.add_session_config_entry(f"ai.edgekit.{name}", value)
            # Its threads would spin on the cores that the operator computes with.
            given.add_session_config_entry("session.intra_op.allow_spinning", "0")
            given.register_custom_ops_library(str(library_path("libedgekit_onnx")))
        try:
            path = str(artifact.path / "model.onnx")
            self.session = ort.InferenceSession(path, given, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base
            raise ConvertError(f"{artifact.path}: onnxruntime cannot open it: {_line(error)}") from error
        self.flash = artifact.kind == "onnx-flash"
        self.names = [o.name for o in self.session.get_outputs()]
        self.reset()

    def reset(self) -> None:
        given = [i for i in self.session.get_inputs() if i.name.startswith("past_key_values")]
        self.cache: dict[str, Any] = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in given}
        self.position = 0

    def __call__(self, tokens: Sequence[int]) -> F32:
        self.position += len(tokens)
        feeds = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, self.position), np.int64),
            **self.cache,
        }
        try:
            logits, *present = self.session.run(None, feeds)
        except Exception as error:
            raise ConvertError(f"{self.artifact.path}: onnxruntime failed: {_line(error)}") from error
        names = (n.replace("present", "past_key_values") for n in self.names[1:])
        self.cache = dict(zip(names, present, strict=True))
        out: F32 = logits[0]
        return out

    def counters(self) -> tuple[Stats, Plan] | None:
        return operator_counters(library_path("libedgekit_onnx"), f"{id(self)}") if self.flash else None


class MlxLmEngine(Engine):
    """mlx_lm's own model classes. Without Metal 16-bit weights are widened: MLX's CPU lacks some 16-bit kernels."""

    def __init__(self, artifact: Artifact, model: Json) -> None:
        super().__init__(artifact, model)
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache
        from mlx_lm.utils import load_model

        self.mx, self.make_cache = mx, make_prompt_cache
        try:
            self.loaded, _ = load_model(artifact.path)
        except Exception as error:
            raise ConvertError(f"{artifact.path}: mlx_lm cannot load it: {_line(error)}") from error
        if not mx.metal.is_available():
            half = (mx.float16, mx.bfloat16)
            self.loaded.apply(lambda p: p.astype(mx.float32) if p.dtype in half else p)
        self.reset()

    def reset(self) -> None:
        self.cache = self.make_cache(self.loaded)

    def __call__(self, tokens: Sequence[int]) -> F32:
        logits = self.loaded(self.mx.array([list(tokens)]), cache=self.cache)
        return np.array(logits[0].astype(self.mx.float32))


class MlxExactEngine(Engine):
    """edgekit's own model file for MLX; with a budget, feed-forward blocks come from flash."""

    def __init__(self, artifact: Artifact, model: Json, bundle: Path, options: Options) -> None:
        super().__init__(artifact, model)
        module = base.load("mlx-exact", "mlx_model")
        flash = None
        if options.ram is not None:
            self.blocks = Session(bundle, options)
            flash = self.blocks.feed_forward
        self.loaded = module.MlxModel(artifact.path, flash=flash)

    def reset(self) -> None:
        self.loaded.reset()

    def __call__(self, tokens: Sequence[int]) -> F32:
        out: F32 = self.loaded(list(tokens))
        return out


class PackageEngine(Engine):
    """A Core ML package: by our interpreter, which runs anywhere (to check), or by Core ML on a Mac."""

    def __init__(self, artifact: Artifact, model: Json) -> None:
        super().__init__(artifact, model)
        module = base.load("coreml", "mil_interpreter")
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
    """A Core AI model, by our interpreter: to check."""

    def __init__(self, artifact: Artifact, model: Json) -> None:
        super().__init__(artifact, model)
        module = base.load("coreai", "coreai_interpreter")
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


def open_engine(bundle: Path, kind: str, options: Options, *, check: bool = False) -> Engine:
    """Opens an artifact of a bundle.

    Args:
        bundle: its folder.
        kind: of artifact.
        options: threads, selection and budget (`ram`: of the feed-forward blocks of a flash variant).
        check: Core ML packages are interpreted where there is no Core ML.

    Raises:
        BundleError: no such artifact.
        ConvertError: a package is missing, this platform cannot run it, or no budget can be kept.
    """
    model = manifest.read(bundle).data["model"]
    artifact = base.read(bundle, kind)
    if options.ram is not None and kind not in ("onnx-flash", "mlx-exact"):
        raise ConvertError(
            f"{kind} keeps all weights in memory and no budget; use --backend native, onnx-flash or mlx-exact"
        )
    if kind.startswith("onnx"):
        base.load(kind)
        return OnnxEngine(artifact, model, bundle, options)
    if kind == "mlx":
        base.load(kind)
        return MlxLmEngine(artifact, model)
    if kind == "mlx-exact":
        return MlxExactEngine(artifact, model, bundle, options)
    if kind == "coreml-flash" and check:
        return FlashPackageEngine(artifact, model, bundle, options)
    if kind == "coreml" and check:
        return PackageEngine(artifact, model)
    if kind == "coreai" and check:
        return CoreAiEngine(artifact, model)
    if kind == "coreml" and sys.platform == "darwin":
        module = base.load(kind, "coreml_engine")
        made: Engine = module.CoreMlEngine(artifact, model)
        return made
    raise ConvertError(f"{kind} runs on Apple devices only; 'edgekit check' interprets Core ML packages anywhere")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
