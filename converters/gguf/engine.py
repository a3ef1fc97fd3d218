"""llama.cpp, through llama-cpp-python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.codecs.base import F32
from edgekit.converters.base import Artifact, package
from edgekit.converters.engines import Engine
from edgekit.converters.gguf.export import FILE
from edgekit.converters.weights import Json
from edgekit.errors import ConvertError
from edgekit.runtime.values import Options

LLAMA_F32 = 0  # ggml's number of the type


class LlamaEngine(Engine):
    """A file in llama.cpp, its keys and values in f32."""

    def __init__(self, artifact: Artifact, model: Json, options: Options) -> None:
        super().__init__(artifact, model)
        llama = package("llama_cpp", "llama")
        threads = {"n_threads": options.threads, "n_threads_batch": options.threads} if options.threads else {}
        self.loaded = llama.Llama(
            str(artifact.path / FILE), n_ctx=self.context, logits_all=True, verbose=False,
            type_k=LLAMA_F32, type_v=LLAMA_F32, n_gpu_layers=0, **threads,
        )  # fmt: skip

    def reset(self) -> None:
        self.loaded.reset()

    def __call__(self, tokens: Sequence[int]) -> F32:
        before = self.loaded.n_tokens
        if before + len(tokens) > self.context:
            raise ConvertError(
                f"{self.artifact.path}: the text is longer than the {self.context} tokens of its context"
            )
        self.loaded.eval(list(tokens))
        out: F32 = np.array(self.loaded.scores[before : self.loaded.n_tokens], np.float32)
        return out

    def close(self) -> None:
        """Frees llama.cpp's memory."""
        self.loaded.close()
        super().close()
