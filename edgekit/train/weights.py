"""Weights of a bundle as torch tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edgekit.bundle.weights import BundleWeights


class BundleTensors:
    """Decoded weights of a bundle, read when they are asked for and kept until `forget`.

    Attributes:
        model: the `model` of its manifest.
    """

    def __init__(self, bundle: Path) -> None:
        self.source = BundleWeights(bundle)
        self.model = self.source.data["model"]
        self.matrices: dict[str, list[Tensor]] = {}
        self.vectors: dict[str, Tensor] = {}

    def matrix(self, name: str) -> list[Tensor]:
        """The parts of a matrix, f32 [rows, cols] as the bundle stores them."""
        if name not in self.matrices:
            self.matrices[name] = [torch.tensor(p, dtype=torch.float32) for p in self.source.matrix(name)]
        return self.matrices[name]

    def vector(self, name: str) -> Tensor:
        """A vector f32 [count]."""
        if name not in self.vectors:
            self.vectors[name] = torch.tensor(self.source.vector(name), dtype=torch.float32)
        return self.vectors[name]

    def forget(self) -> None:
        """Lets go of all matrices."""
        self.matrices.clear()
