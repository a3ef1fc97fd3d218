"""MLX: mlx_lm's models, and edgekit's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from safetensors import SafetensorError, safe_open

from edgekit.codecs.base import F32
from edgekit.converters.base import Artifact
from edgekit.converters.engines import Engine, one_line
from edgekit.converters.mlx.export_exact import WEIGHTS
from edgekit.converters.mlx.model import MlxModel
from edgekit.converters.weights import Json
from edgekit.errors import ConvertError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options


def _checked(path: Path) -> None:
    """Refuses weights whose header points outside the file: MLX believes it.

    Raises:
        ConvertError: missing or damaged.
    """
    try:
        with safe_open(path, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConvertError(f"{path}: is missing or damaged, export it again ({one_line(error)})") from error


class MlxLmEngine(Engine):
    """mlx_lm's own model classes. Without Metal 16-bit weights are widened: MLX's CPU lacks some 16-bit kernels."""

    def __init__(self, artifact: Artifact, model: Json) -> None:
        super().__init__(artifact, model)
        _checked(artifact.path / "model.safetensors")
        try:
            self.loaded, _ = load_model(artifact.path)
        except Exception as error:
            raise ConvertError(f"{artifact.path}: mlx_lm cannot load it: {one_line(error)}") from error
        if not mx.metal.is_available():
            half = (mx.float16, mx.bfloat16)
            self.loaded.apply(lambda p: p.astype(mx.float32) if p.dtype in half else p)
        self.reset()

    def reset(self) -> None:
        self.cache = make_prompt_cache(self.loaded)

    def __call__(self, tokens: Sequence[int]) -> F32:
        logits = self.loaded(mx.array([list(tokens)]), cache=self.cache)
        return np.array(logits[0].astype(mx.float32))


class MlxExactEngine(Engine):
    """edgekit's own model file for MLX; with a budget, feed-forward blocks come from flash."""

    def __init__(self, artifact: Artifact, model: Json, bundle: Path, options: Options) -> None:
        super().__init__(artifact, model)
        _checked(artifact.path / WEIGHTS)
        flash = None
        if options.ram is not None:
            self.blocks = Session(bundle, options)
            flash = self.blocks.feed_forward
        self.loaded = MlxModel(artifact.path, flash=flash)

    def reset(self) -> None:
        self.loaded.reset()

    def __call__(self, tokens: Sequence[int]) -> F32:
        out: F32 = self.loaded(list(tokens))
        return out
