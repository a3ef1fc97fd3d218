"""The kinds of artifacts, for the converters and the command line: names only, so that importing this costs nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of artifact.

    Attributes:
        module: of the converter, within edgekit.converters.
        extra: of edgekit, with the packages that it needs.
        options: which fields of `base.Choices` its converter reads; the command line refuses the others.
        encoders: whether it takes models that read texts whole.
        runs: whether `edgekit run --backend` computes with it; the others are for Apple's runtimes and `check`.
    """

    module: str
    extra: str
    options: tuple[str, ...]
    runs: bool = True
    encoders: bool = False


_APPLE = ("context", "precision", "chunk")

KINDS = {
    "onnx": Kind("onnx.export", "onnx", ("context", "bits", "accuracy_level"), encoders=True),
    "onnx-exact": Kind("onnx.export", "onnx", ("context", "accuracy_level"), encoders=True),
    "onnx-flash": Kind("onnx.export", "onnx", ("context", "accuracy_level")),
    "mlx": Kind("mlx.export", "mlx", ("bits",)),
    "mlx-exact": Kind("mlx.export_exact", "mlx", ()),
    "coreml": Kind("coreml.export", "coreml", _APPLE),
    "coreml-flash": Kind("coreml.export", "coreml", _APPLE, runs=False),
    "gguf": Kind("gguf.export", "gguf", ("bits",)),
    "coreai": Kind("coreai.export", "coreai", _APPLE, runs=False),
}
