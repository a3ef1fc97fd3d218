"""Core ML itself, on a Mac."""

from __future__ import annotations

from collections.abc import Sequence

import coremltools as ct
import numpy as np

from edgekit.codecs.base import F32
from edgekit.converters.base import Artifact
from edgekit.converters.engines import Engine
from edgekit.converters.weights import Json


class CoreMlEngine(Engine):
    """Token by token through the package's `decode`: a state belongs to one function's model."""

    def __init__(self, artifact: Artifact, model: Json) -> None:
        super().__init__(artifact, model)
        self.loaded = ct.models.MLModel(str(artifact.path / "model.mlpackage"), function_name="decode")
        self.reset()

    def reset(self) -> None:
        self.state = self.loaded.make_state()
        self.position = 0

    def __call__(self, tokens: Sequence[int]) -> F32:
        out = []
        for token in tokens:
            given = {"ids": np.array([[token]], np.int32), "position": np.array([self.position], np.int32)}
            out.append(self.loaded.predict(given, state=self.state)["logits"][0])
            self.position += 1
        logits: F32 = np.concatenate(out).astype(np.float32)
        return logits
