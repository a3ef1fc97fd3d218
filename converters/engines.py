"""Running artifacts: what turns token ids into logits, one engine for each format's own runtime."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.bundle import manifest
from edgekit.codecs.base import F32
from edgekit.converters import base
from edgekit.converters.base import Artifact
from edgekit.converters.weights import Json
from edgekit.errors import ConvertError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Plan, Stats


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
    interpreted = {"coreml": "PackageEngine", "coreml-flash": "FlashPackageEngine", "coreai": "CoreAiEngine"}
    if kind.startswith("onnx"):
        return _make(kind, "onnx.engine", "OnnxEngine", artifact, model, bundle, options)
    if kind == "mlx":
        return _make(kind, "mlx.engine", "MlxLmEngine", artifact, model)
    if kind == "mlx-exact":
        return _make(kind, "mlx.engine", "MlxExactEngine", artifact, model, bundle, options)
    if kind == "gguf":
        return _make(kind, "gguf.engine", "LlamaEngine", artifact, model, options)
    if check:
        more = (bundle, options) if kind == "coreml-flash" else ()
        return _make(kind, "engine_interpreted", interpreted[kind], artifact, model, *more)
    if kind == "coreml" and sys.platform == "darwin":
        return _make(kind, "coreml.engine", "CoreMlEngine", artifact, model)
    raise ConvertError(f"{kind} runs on Apple devices only; 'edgekit check' interprets Core ML packages anywhere")


def _make(kind: str, module: str, name: str, *given: Any) -> Engine:
    kind_of = getattr(base.load(kind, module), name)
    try:
        made: Engine = kind_of(*given)
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ConvertError(f"{given[0].path}: cannot be opened, export it again ({one_line(error)})") from error
    return made


def one_line(error: Exception) -> str:
    """What another library says, as part of a message."""
    return " ".join(str(error).split())[:400]
