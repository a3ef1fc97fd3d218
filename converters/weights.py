"""A bundle's weights as converters need them: codes, scales and tables apart, or plain numbers.

A weight is one part of a bundle's matrix. Most lie as [outputs, inputs]; the down projection of a
feed-forward block lies as [neurons, outputs], because a neuron's bundle holds its column.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.weights import BundleWeights
from edgekit.codecs import codec_of
from edgekit.codecs.affine import Affine
from edgekit.codecs.base import F32, U8
from edgekit.codecs.forms import AffineForm, ComputedForm, DenseForm, LookupForm
from edgekit.solvers.nearest import affine_arrays

Json = dict[str, Any]
PART = re.compile(r"(.*)\.part(\d+)of(\d+)")


@dataclass(frozen=True)
class Part:
    """Names a weight: a matrix of the bundle and which of its parts."""

    matrix: str
    index: int = 0

    @property
    def label(self) -> str:
        """A name for files and graphs."""
        return self.matrix if self.index == 0 else f"{self.matrix}.{self.index}"


Weight = DenseForm | AffineForm | LookupForm


def requantize(values: F32, bits: int, group_size: int) -> AffineForm:
    """Values [rows, cols] rounded to symmetric affine codes."""
    codec = Affine(bits, group_size, symmetric=True)
    step, pieces = 1024, []
    for begin in range(0, len(values), step):
        rows = np.ascontiguousarray(values[begin : begin + step])
        pieces.append(affine_arrays(codec, rows))
    return codec.values({k: np.concatenate([p[k] for p in pieces]) for k in pieces[0]}, values.shape[1])


@dataclass
class Loss:
    """What re-quantizing cost: weights touched, and the relative root mean square error over them."""

    weights: int = 0
    squared_error: float = 0.0
    squared: float = 0.0

    def add(self, before: F32, after: F32) -> None:
        """Counts one weight."""
        self.weights += before.size
        self.squared_error += float(np.square(after - before, dtype=np.float64).sum())
        self.squared += float(np.square(before, dtype=np.float64).sum())

    @property
    def relative_rms(self) -> float:
        """0 if nothing was re-quantized."""
        return float(np.sqrt(self.squared_error / self.squared)) if self.squared else 0.0


@dataclass
class Weights:
    """Reads weights of a bundle, and remembers what was re-quantized."""

    bundle: BundleWeights
    loss: Loss = field(default_factory=Loss)
    progress: Callable[[int, int], None] | None = None
    seen: set[Part] = field(default_factory=set)
    counted: set[Part] = field(default_factory=set)  # in `loss`

    def __post_init__(self) -> None:
        self.total = sum(len(m["parts"]) for m in self.bundle.data["matrices"])

    @staticmethod
    def open(path: Path, progress: Callable[[int, int], None] | None = None) -> Weights:
        """Opens a bundle; `progress` is called with (weights read, weights in all).

        Raises:
            BundleError: not a bundle, or damaged.
        """
        return Weights(BundleWeights(path), progress=progress)

    @property
    def model(self) -> Json:
        """The manifest's model."""
        model: Json = self.bundle.data["model"]
        return model

    def shape(self, part: Part) -> tuple[int, int]:
        """[rows, cols] of a weight."""
        entry = self.bundle.matrix_entry(part.matrix)
        return entry["rows"], entry["parts"][part.index]["cols"]

    def kind(self, part: Part) -> Json:
        """What the manifest says of a weight's codec."""
        entry: Json = self.bundle.matrix_entry(part.matrix)["parts"][part.index]
        return entry

    def form(self, part: Part) -> str:
        """The form of a weight's codec: "dense", "affine", "lookup" or "computed"."""
        return codec_of(self.kind(part)).form

    def vector(self, name: str) -> F32:
        """A vector, f32 [count], or a part of one, named by `part_of`."""
        out: F32 = find_vector(name, self.bundle.vector).astype(np.float32)
        return out

    def get(self, part: Part) -> Weight:
        """A weight as it is stored; one that is computed from codes as no format does, as numbers."""
        if self.progress is not None:
            self.seen.add(part)
            self.progress(len(self.seen), self.total)
        form = self.bundle.form(part.matrix, part.index)
        return DenseForm(form.values, "f32") if isinstance(form, ComputedForm) else form

    def affine(self, part: Part, bits: int, group_size: int, *, keep: bool, transposed: bool = False) -> AffineForm:
        """A weight as affine codes: as stored if it can be kept, else re-quantized (symmetric) and counted.

        Args:
            part: which.
            bits: of what is re-quantized.
            group_size: likewise.
            keep: the format holds these stored codes.
            transposed: the result is [cols, rows], with groups along the stored rows.
        """
        weight = self.get(part)
        if isinstance(weight, AffineForm) and keep and not transposed:
            return weight
        before = weight.dense()
        after = requantize(np.ascontiguousarray(before.T) if transposed else before, bits, group_size)
        if part not in self.counted:  # an embedding may be asked for again as the head
            self.counted.add(part)
            self.loss.add(before.T if transposed else before, after.dense())
        return after


def feed_forward_parts(block: Json, matrix: str) -> tuple[Part | None, Part, Part]:
    """Gate (None without one), up and down of a block's matrix, wherever the layout put them."""
    inputs = [Part(block["selector"])] if "selector" in block else []
    count = (2 if block["gated"] else 1) - len(inputs)
    parts = [*inputs, *(Part(matrix, i) for i in range(count + 1))]
    return (parts[0] if block["gated"] else None), parts[-2], parts[-1]


def stored_bits(bits: int) -> int:
    """The width, 4 or 8, in which other formats hold affine codes of so many bits."""
    return 4 if bits <= 4 else 8


def part_of(vector: str, index: int, count: int) -> str:
    """The name of one of `count` equal parts of a vector: an expert's biases."""
    return f"{vector}.part{index}of{count}"


def find_vector(name: str, find: Callable[[str], Any]) -> Any:
    """What `find` has under a vector's name, or the part of it that `part_of` named."""
    part = PART.fullmatch(name)
    if part is None:
        return find(name)
    whole, index, count = find(part[1]), int(part[2]), int(part[3])
    size = len(whole) // count
    return whole[index * size : (index + 1) * size]


def bitstream(codes: U8, bits: int) -> U8:
    """Codes u8 [rows, cols] as little-endian streams of bits, u8 [rows, ceil(cols * bits / 8)]."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    wide = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(wide.reshape(len(codes), -1), axis=-1, bitorder="little")
