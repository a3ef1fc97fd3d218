"""A bundle as one GGUF file, which llama.cpp opens. Each tensor is read, packed and written before the next one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgekit.checkpoint.gguf_kept import FP4_TABLE
from edgekit.codecs.base import F32, U8
from edgekit.codecs.forms import AffineForm, DenseForm, LookupForm
from edgekit.converters.base import Job
from edgekit.converters.gguf.blocks import BY_NAME, decoded, encoded, exact_kind, is_fp4, nearest_kind, packed
from edgekit.converters.gguf.file import GgufWriter
from edgekit.converters.gguf.metadata import write_hyperparameters
from edgekit.converters.gguf.targets import target_of
from edgekit.converters.gguf.tensors import MatrixTensor, Piece, VectorTensor, plan
from edgekit.converters.gguf.tokenizer import write_tokenizer
from edgekit.converters.steep import steep_factors
from edgekit.converters.weights import Json, Part, Weight

FILE = "model.gguf"
QUANTIZATION_VERSION = 2
STEP = 1 << 22  # weights that are packed at a time
PRECISIONS = {"F32": "f32", "F16": "f16", "BF16": "f16"}  # of llama.cpp's products; others take activations in 8 bits


def export(job: Job) -> None:
    """Writes model.gguf, tokenizer and chat template included.

    Raises:
        ConvertError: llama.cpp has no such model or tokenizer.
    """
    model = job.weights.model
    target = target_of(model)
    planned = plan(model, target)
    file = GgufWriter(job.folder / FILE, target.name)
    try:
        file.keys.add_name(job.bundle.stem)
        file.keys.add_quantization_version(QUANTIZATION_VERSION)
        tables, reach = write_hyperparameters(file.keys, job.weights, target, job.bundle)
        write_tokenizer(file.keys, job.bundle, model)
        packers = [Packer(job, tensor) for tensor in planned if isinstance(tensor, MatrixTensor)]
        written = [Vectors(job, tensor) if isinstance(tensor, VectorTensor) else packers.pop(0) for tensor in planned]
        for name, values in tables.items():
            file.announce(name, values.shape, "F32")
        for tensor in written:
            file.announce(tensor.tensor.name, tensor.shape, tensor.kind)
        file.begin()
        for name, values in tables.items():
            file.write(name, [encoded(values[None], "F32")])
        factors = steep_factors(job.weights, job.about)
        for tensor in written:
            file.write(tensor.tensor.name, tensor.blocks(factors))
    finally:
        file.close()
    kinds = {t.kind for t in written if isinstance(t, Packer)}
    precisions = {PRECISIONS.get(kind, "int8") for kind in kinds}
    job.about["precision"] = max(precisions, key=["f32", "f16", "int8"].index)
    job.about["kinds"] = sorted(kinds)
    job.about["context"] = reach


@dataclass
class Vectors:
    """A tensor of f32 made of vectors."""

    job: Job
    tensor: VectorTensor
    kind: str = "F32"

    def __post_init__(self) -> None:
        values = self._values({})
        self.shape = values.shape

    def blocks(self, factors: dict[str, float]) -> Iterator[U8]:
        """Its bytes; `factors`: of vectors by name."""
        yield encoded(self._values(factors).reshape(1, -1), "F32")

    def _values(self, factors: dict[str, float]) -> F32:
        tensor, weights = self.tensor, self.job.weights
        pieces = [weights.vector(name) * np.float32(factors.get(name, 1)) for name in tensor.vectors]
        values = np.concatenate(pieces)
        values = -np.exp(values) if tensor.change == "minus_exp" else values
        values = values if tensor.order is None else values[tensor.order]
        out: F32 = values.reshape(tensor.shape)
        return out


class Packer:
    """A tensor made of weights: its kind and shape, and its blocks, a few million weights at a time."""

    def __init__(self, job: Job, tensor: MatrixTensor) -> None:
        self.job, self.tensor = job, tensor
        pieces = [piece for stack in tensor.stack for piece in stack]
        kinds = [job.weights.kind(piece.part) for piece in pieces]
        across = any(piece.across for piece in pieces)
        rows, cols = zip(*(self._size(piece) for piece in tensor.stack[0]), strict=True)
        shape = (sum(rows), cols[0])
        self.shape = (cols[0],) if tensor.flat else (len(tensor.stack), *shape) if tensor.stacked else shape
        parts = {id(kind): piece.part for kind, piece in zip(kinds, pieces, strict=True)}
        exact = exact_kind(kinds, across, lambda kind: self._is_fp4(kind, parts))
        bits = job.choices.bits or max(kind["bits"] for kind in kinds)
        if exact is not None and tensor.columns is not None and tensor.run % BY_NAME[exact].values:
            exact = None  # columns that change places are not whole blocks
        self.exact = exact is not None and not tensor.plain
        self.kind = "F32" if tensor.plain else exact or nearest_kind(bits, cols[0])

    def _is_fp4(self, kind: Json, parts: dict[int, Part]) -> bool:
        if kind["codec"] != "scaled_palette" or kind["bits"] != 4:
            return False
        table = self.job.weights.bundle.vector(kind["lut"]).reshape(-1, 16)
        form = self.job.weights.get(parts[id(kind)]) if (table == FP4_TABLE).all() else None
        return isinstance(form, LookupForm) and is_fp4(form)

    def _size(self, piece: Piece) -> tuple[int, int]:
        rows, cols = self.job.weights.shape(piece.part)
        return (cols, rows) if piece.across else (rows, cols)

    def blocks(self, factors: dict[str, float]) -> Iterator[U8]:
        """Its bytes, matrix by matrix; `factors`: of parts by label."""
        for stack in self.tensor.stack:
            pieces = (block for piece in stack for block in self._piece(piece, factors.get(piece.part.label, 1.0)))
            if self.tensor.order is None:
                yield from pieces
            else:
                yield np.concatenate(list(pieces))[self.tensor.order]

    def _piece(self, piece: Piece, factor: float) -> Iterator[U8]:
        """The blocks of one weight, rows by rows."""
        form = self.job.weights.get(piece.part)
        rows, cols = self._size(piece)
        whole = np.ascontiguousarray(form.dense().T) if piece.across else None
        step = max(1, STEP // cols)
        for begin in range(0, rows, step):
            end = min(rows, begin + step)
            if whole is not None:
                part: Weight = DenseForm(whole[begin:end], "f32")
            else:
                part = _rows(form, begin, end)
            yield self._packed(part, factor)

    def _packed(self, form: Weight, factor: float) -> U8:
        kind, columns = self.kind, self.tensor.columns
        if self.exact and (factor == 1 or isinstance(form, AffineForm)):
            blocks = packed(_scaled(form, factor), kind)
            if factor != 1:
                self._count(form.dense() * np.float32(factor), blocks)
            if columns is None:
                return blocks
            described = BY_NAME[kind]
            order = columns.reshape(-1, described.values)[:, 0] // described.values
            by_block = blocks.reshape(len(blocks), -1, described.bytes)
            return np.ascontiguousarray(by_block[:, order]).reshape(len(blocks), -1)
        values = form.dense() * np.float32(factor)
        values = values if columns is None else np.ascontiguousarray(values[:, columns])
        blocks = encoded(values, kind)
        self._count(values, blocks)
        return blocks

    def _count(self, before: F32, blocks: U8) -> None:
        after = decoded(blocks, self.kind)
        if not np.array_equal(before, after):
            self.job.weights.loss.add(before, after)


def _scaled(form: Weight, factor: float) -> Weight:
    if factor == 1 or not isinstance(form, AffineForm):
        return form
    half = np.float16(factor)
    return replace(form, scale=form.scale * half, bias=form.bias * half)


def _rows(form: Weight, begin: int, end: int) -> Weight:
    """Some rows of a weight."""
    if isinstance(form, DenseForm):
        return DenseForm(form.values[begin:end], form.dtype)
    if isinstance(form, AffineForm):
        return replace(form, codes=form.codes[begin:end], scale=form.scale[begin:end], bias=form.bias[begin:end])
    tables = form.lut[np.arange(begin, end) // form.lut_rows]
    scale = None if form.scale is None else form.scale[begin:end]
    return replace(form, codes=form.codes[begin:end], lut=tables, lut_rows=1, scale=scale)
