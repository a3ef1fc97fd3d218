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
    "onnx": Kind("to_onnx", "onnx"),
    "onnx-exact": Kind("to_onnx", "onnx"),
    "onnx-flash": Kind("to_onnx", "onnx"),
    "mlx": Kind("to_mlx", "mlx"),
    "mlx-exact": Kind("to_mlx_exact", "mlx"),
    "coreml": Kind("to_coreml", "coreml"),
    "coreml-flash": Kind("to_coreml", "coreml", runs=False),
    "coreai": Kind("to_coreai", "coreai", runs=False),
}
