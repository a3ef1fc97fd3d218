"""The kinds of artifacts, for the converters and the command line: names only, so that importing this costs nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of artifact.

    Attributes:
        module: of the converter, within edgekit.converters.
        extra: of edgekit, with the packages that it needs.
        runs: whether `edgekit run --backend` computes with it; the others are for Apple's runtimes and `check`.
    """

    module: str
    extra: str
    runs: bool = True


KINDS = {
    "onnx": Kind("onnx.export", "onnx"),
    "onnx-exact": Kind("onnx.export", "onnx"),
    "onnx-flash": Kind("onnx.export", "onnx"),
    "mlx": Kind("mlx.export", "mlx"),
    "mlx-exact": Kind("mlx.export_exact", "mlx"),
    "coreml": Kind("coreml.export", "coreml"),
    "coreml-flash": Kind("coreml.export", "coreml", runs=False),
    "coreai": Kind("coreai.export", "coreai", runs=False),
}
