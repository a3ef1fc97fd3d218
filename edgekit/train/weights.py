"""Weights of a bundle as torch tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgekit.bundle.weights import BundleWeights


class BundleTensors:
    """Decoded weights of a bundle, read when they are asked for; the last few matrices are kept.

    Attributes:
        model: the `model` of its manifest.
    """

    def __init__(self, bundle: Path, kept: int = 1 << 62) -> None:
        """Opens a bundle; at most `kept` bytes of decoded matrices stay in memory, and at least one matrix."""
        self.source = BundleWeights(bundle)
        self.model = self.source.data["model"]
        self.most = kept
        self.matrices: dict[str, list[Tensor]] = {}
        self.vectors: dict[str, Tensor] = {}

    def matrix(self, name: str) -> list[Tensor]:
        """The parts of a matrix, f32 [rows, cols] as the bundle stores them."""
        if name not in self.matrices:
            made = [torch.tensor(p, dtype=torch.float32) for p in self.source.matrix(name)]
            while self.matrices and self._size() + sum(p.nbytes for p in made) > self.most:
                self.matrices.pop(next(iter(self.matrices)))
            self.matrices[name] = made
        return self.matrices[name]

    def vector(self, name: str) -> Tensor:
        """A vector f32 [count]."""
        if name not in self.vectors:
            self.vectors[name] = torch.tensor(self.source.vector(name).astype(np.float32))
        return self.vectors[name]

    def _size(self) -> int:
        return sum(p.nbytes for parts in self.matrices.values() for p in parts)
