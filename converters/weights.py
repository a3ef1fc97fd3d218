"""A bundle's weights as converters need them: codes, scales and tables apart, or plain numbers.

A weight is one part of a bundle's matrix. Most lie as [outputs, inputs]; the down projection of a
feed-forward block lies as [neurons, outputs], because a neuron's bundle holds its column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.weights import BundleWeights
from edgekit.codecs.affine import Affine
from edgekit.codecs.base import F16, F32, U8
from edgekit.codecs.palette import Palette, looked_up

Json = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Names a weight: a matrix of the bundle and which of its parts."""

    matrix: str
    index: int = 0

    @property
    def label(self) -> str:
        """A name for files and graphs."""
        return self.matrix if self.index == 0 else f"{self.matrix}.{self.index}"


@dataclass(frozen=True)
class Plain:
    """Numbers: `values` f32 [rows, cols], stored as `dtype` ("f32", "f16", "bf16") in the bundle."""

    values: F32
    dtype: str

    def dense(self) -> F32:
        """f32 [rows, cols]."""
        return self.values


@dataclass(frozen=True)
class Coded:
    """Affine: `scale * code + bias` with one scale and bias per `group_size` columns.

    codes u8 [rows, cols]; scale, bias f16 [rows, groups]; symmetric: bias = -scale * 2^(bits-1).
    """

    codes: U8
    bits: int
    scale: F16
    bias: F16
    group_size: int
    symmetric: bool

    def dense(self) -> F32:
        """f32 [rows, cols]."""
        return Affine(self.bits, self.group_size, self.symmetric).values(self.codes, self.scale, self.bias)


@dataclass(frozen=True)
class Indexed:
    """Palette: codes u8 [rows, cols] into lut f16 [tables, 2^bits], one table for `lut_rows` rows."""

    codes: U8
    bits: int
    lut: F16
    lut_rows: int

    def dense(self) -> F32:
        """f32 [rows, cols]."""
        return looked_up(self.codes, self.lut, self.lut_rows)


Weight = Plain | Coded | Indexed


def requantize(values: F32, bits: int, group_size: int) -> Coded:
    """Values [rows, cols] rounded to symmetric affine codes."""
    codec = Affine(bits, group_size, symmetric=True)
    step, pieces = 1024, []
    for begin in range(0, len(values), step):
        records = codec.encode(np.ascontiguousarray(values[begin : begin + step])).records
        pieces.append(codec.codes(records, values.shape[1]))
    codes, scale, bias = (np.concatenate(piece) for piece in zip(*pieces, strict=True))
    return Coded(codes, bits, scale, bias, group_size, True)


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
        told: Json = self.bundle.matrix_entry(part.matrix)["parts"][part.index]
        return told

    def vector(self, name: str) -> F32:
        """A vector, f32 [count]."""
        out: F32 = self.bundle.vector(name).astype(np.float32)
        return out

    def get(self, part: Part) -> Weight:
        """A weight as it is stored."""
        codec, records, lut = self.bundle.records(part.matrix, part.index)
        told = self.kind(part)
        if self.progress is not None:
            self.seen.add(part)
            self.progress(len(self.seen), self.total)
        if isinstance(codec, Affine):
            codes, scale, bias = codec.codes(records, told["cols"])
            return Coded(codes, codec.bits, scale, bias, codec.group_size, codec.symmetric)
        if isinstance(codec, Palette):
            assert lut is not None
            return Indexed(codec.codes(records, told["cols"]), codec.bits, lut, told["lut_rows"] or len(records))
        return Plain(codec.decode(records, told["cols"]), told["codec"])

    def affine(self, part: Part, bits: int, group_size: int, *, keep: bool, transposed: bool = False) -> Coded:
        """A weight as affine codes: as stored if it can be kept, else re-quantized (symmetric) and counted.

        Args:
            part: which.
            bits: of what is re-quantized.
            group_size: likewise.
            keep: the format holds these stored codes.
            transposed: the result is [cols, rows], with groups along the stored rows.
        """
        weight = self.get(part)
        if isinstance(weight, Coded) and keep and not transposed:
            return weight
        before = weight.dense()
        after = requantize(np.ascontiguousarray(before.T) if transposed else before, bits, group_size)
        self.loss.add(before.T if transposed else before, after.dense())
        return after


def feed_forward_parts(block: Json, matrix: str) -> tuple[Part | None, Part, Part]:
    """Gate (None without one), up and down of a block's matrix, wherever the layout put them."""
    inputs = [Part(block["selector"])] if "selector" in block else []
    count = (2 if block["gated"] else 1) - len(inputs)
    parts = [*inputs, *(Part(matrix, i) for i in range(count + 1))]
    return (parts[0] if block["gated"] else None), parts[-2], parts[-1]


def bitstream(codes: U8, bits: int) -> U8:
    """Codes u8 [rows, cols] as little-endian streams of bits, u8 [rows, ceil(cols * bits / 8)]."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    wide = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(wide.reshape(len(codes), -1), axis=-1, bitorder="little")
