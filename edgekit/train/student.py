"""A bundle whose codes, scales, tables and vectors are trained, as weights of a decoder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekit.bundle.weights import BundleWeights
from edgekit.train.parts import Made, TrainedPart, trained_part

F32 = npt.NDArray[np.float32]
OTHER_USES = ("predictor", "cuts", "reuse")  # members of a block that say nothing of what it computes


class Student:
    """Weights that are computed from what is trained, once for each step."""

    def __init__(self, bundle: Path, codes_too: bool) -> None:
        """Opens a bundle; `codes_too`: train codes as well as scales, tables, norms and biases."""
        self.source = BundleWeights(bundle)
        self.model = self.source.data["model"]
        self.parts: dict[tuple[str, int], TrainedPart] = {}
        self.constant: dict[tuple[str, int], Tensor] = {}
        for entry in self.source.data["matrices"]:
            for i, part in enumerate(entry["parts"]):
                codec, records, lut = self.source.records(entry["name"], i)
                arrays = codec.unpack(records, part["cols"])
                arrays |= {} if lut is None else {"lut": lut}
                made = None if ".predict." in part["name"] else trained_part(codec, arrays, part["cols"], codes_too)
                if made is None:
                    values = codec.values(arrays, part["cols"]).dense()
                    self.constant[entry["name"], i] = torch.tensor(values, dtype=torch.float32)
                else:
                    self.parts[entry["name"], i] = made
        self.trained_vectors = {
            name: torch.tensor(self.source.vector(name), dtype=torch.float32).requires_grad_(True)
            for name in sorted(set(self._vectors()))
        }
        self.other_vectors: dict[str, Tensor] = {}
        self.made: dict[str, list[Tensor]] = {}

    def _vectors(self) -> Iterator[str]:
        """Names of vectors that norms and biases are."""
        known = {v["name"] for v in self.source.data["vectors"]["list"] if v["dtype"] == "f32"}

        def walk(value: Any) -> Iterator[str]:
            if isinstance(value, dict):
                for key, inner in value.items():
                    if key not in OTHER_USES:
                        yield from walk(inner)
            elif isinstance(value, str) and value in known:
                yield value

        for table in (*self.model["blocks"], self.model["embedding"], self.model["head"], self.model.get("final_norm")):
            yield from walk(table)

    def matrix(self, name: str) -> list[Tensor]:
        """The parts of a matrix, f32 [rows, cols], with gradients."""
        if name not in self.made:
            places = [(name, i) for i in range(len(self.source.matrix_entry(name)["parts"]))]
            self.made[name] = [self.parts[p].weight() if p in self.parts else self.constant[p] for p in places]
        return self.made[name]

    def vector(self, name: str) -> Tensor:
        """A vector f32 [count]."""
        if name in self.trained_vectors:
            return self.trained_vectors[name]
        if name not in self.other_vectors:
            self.other_vectors[name] = torch.tensor(self.source.vector(name), dtype=torch.float32)
        return self.other_vectors[name]

    def changed(self) -> None:
        """Says that what is trained has other values now."""
        self.made.clear()

    def search(self, round_number: int) -> None:
        """Chooses codes anew where they do not follow the weights by themselves."""
        for part in self.parts.values():
            part.search(round_number)
        self.changed()

    def parameters(self) -> dict[str, tuple[Tensor, float]]:
        """What is trained, by name, each with the size of its steps."""
        out = {
            f"{name}.{i}.{what}": value
            for (name, i), part in self.parts.items()
            for what, value in part.parameters.items()
        }
        for name, vector in self.trained_vectors.items():
            out[name] = vector, max(float(vector.detach().square().mean().sqrt()), 1e-3)
        return out

    def extra(self) -> dict[str, Tensor]:
        """What a state must hold beside the parameters."""
        return {
            f"extra.{name}.{i}.{what}": value
            for (name, i), part in self.parts.items()
            for what, value in part.extra().items()
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes over what `extra` gave."""
        for (name, i), part in self.parts.items():
            part.restore({what: state[f"extra.{name}.{i}.{what}"] for what in part.extra()})
        self.changed()

    def arrays(self) -> dict[tuple[str, int], Made]:
        """The arrays of what was trained."""
        return {place: part.arrays() for place, part in self.parts.items()}

    def vectors(self) -> dict[str, F32]:
        """The vectors that were trained."""
        return {name: v.detach().numpy() for name, v in self.trained_vectors.items()}
