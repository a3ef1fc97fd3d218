"""Matrices that other tools quantized in groups of columns: read as f32, or as the arrays of an affine codec.

Each layout gives, for some rows, codes and for each group a scale with a zero point (weight = scale * (code - zero)) or
a bias (weight = scale * code + bias). Products are computed in f32, where codes times f16 scales are exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.safetensors import Tensor, to_f32
from edgekit.codecs import Codec, make_codec
from edgekit.codecs.affine import GROUPS, WIDTHS
from edgekit.errors import CheckpointError

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.generic]
WIDEST = 128  # columns that share a scale, where a whole row has one


@dataclass(frozen=True)
class Groups:
    """Scales f32 [n, groups] of rows, and what is taken off their codes (`zero`) or added to products (`bias`)."""

    scale: F32
    zero: F32 | None = None
    bias: F32 | None = None


@dataclass(frozen=True)
class Packed(Tensor, ABC):
    """A matrix [rows, cols] of dtype F32 for those that read it.

    Attributes:
        parts: the tensors of the file, by what they are.
        bits: of a code.
        group_size: columns that share a scale.
        columns: the group of each column, where groups are no runs of columns.
    """

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    bits: int = 4
    group_size: int = 128
    columns: npt.NDArray[np.int64] | None = field(default=None, compare=False)

    @abstractmethod
    def codes(self, begin: int, end: int) -> U8:
        """Codes u8 [end - begin, cols]."""

    @abstractmethod
    def groups(self, begin: int, end: int) -> Groups:
        """What groups of these rows have."""

    def read(self, begin: int = 0, end: int | None = None) -> Rows:
        """Rows [begin, end), f32 [end - begin, cols]."""
        end = self.shape[0] if end is None else end
        codes, groups = self.codes(begin, end).astype(np.float32), self.groups(begin, end)
        with np.errstate(all="ignore"):  # what is not finite is told by those who use the values
            if groups.bias is not None:
                return np.asarray(self._wide(groups.scale) * codes + self._wide(groups.bias))
            if groups.zero is not None:
                codes -= self._wide(groups.zero)
            return np.asarray(self._wide(groups.scale) * codes)

    def _wide(self, values: F32) -> F32:
        """Values [n, groups] for each column, [n, cols]."""
        cols = self.shape[1]
        if self.columns is not None:
            return values[:, self.columns]
        return np.repeat(values, self.group_size, axis=1)[:, :cols]

    @property
    def _stored_group(self) -> int:
        """Columns of a group in our codec: one of a whole row is cut."""
        whole = self.group_size >= self.shape[1] and self.shape[1] > max(GROUPS)
        return WIDEST if whole else self.group_size

    @property
    def codec(self) -> Codec | None:
        """The affine codec that has these codes and groups, if there is one."""
        if self.columns is not None or self.bits not in WIDTHS or self._stored_group not in GROUPS:
            return None
        return make_codec("affine", self.bits, group_size=self._stored_group, symmetric=self._symmetric())

    def _symmetric(self) -> bool:
        groups = self.groups(0, self.shape[0])
        return groups.zero is not None and bool((groups.zero == 1 << (self.bits - 1)).all())

    @property
    def exact(self) -> bool:
        """Whether f16 holds all scales and biases."""
        with np.errstate(over="ignore"):
            return all((v.astype("<f2") == v).all() for v in self._stored(0, self.shape[0]).values())

    def _stored(self, begin: int, end: int) -> dict[str, F32]:
        groups = self.groups(begin, end)
        out = {"scale": groups.scale}
        if groups.bias is not None:
            out["bias"] = groups.bias
        elif not self._symmetric():
            out["bias"] = -groups.scale * (0 if groups.zero is None else groups.zero)
        return out

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of `codec`."""
        count = -(-self.shape[1] // self._stored_group)
        made: dict[str, npt.NDArray[Any]] = {"codes": self.codes(begin, end)}
        for name, values in self._stored(begin, end).items():
            wide = values if values.shape[1] == count else np.repeat(values[:, :1], count, axis=1)
            with np.errstate(over="ignore"):
                made[name] = np.clip(wide, -65504, 65504).astype("<f2")
        return made

    def need(self, name: str, dtypes: tuple[str, ...], *shape: int) -> Tensor:
        """One of the parts, of the dtype and shape that it must have.

        Raises:
            CheckpointError: it is not there, or of others.
        """
        part = self.parts.get(name)
        if part is None or part.dtype not in dtypes or part.shape != shape:
            found = "missing" if part is None else f"{part.dtype} {list(part.shape)}"
            raise CheckpointError(
                f"{self.path}: {name} of '{self.name}' is {found}, but should be {' or '.join(dtypes)} {list(shape)}"
            )
        return part


FLOATS = ("F16", "BF16", "F32")
WORDS = ("I32", "U32")


def floats(tensor: Tensor, begin: int = 0, end: int | None = None) -> F32:
    """Rows of a tensor of numbers, f32."""
    return to_f32(tensor.read(begin, end), tensor.dtype)


def unpack_bits(words: Rows, bits: int) -> U8:
    """Codes u8 [n, 32 * m / bits] of words [n, m]: a stream of bits, the lowest first."""
    rows, width = words.shape
    raw = np.ascontiguousarray(words).view(np.uint8).reshape(rows, width * words.itemsize)
    if bits == 8:
        return raw
    stream = np.unpackbits(raw, axis=1, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    out: U8 = stream.reshape(rows, width * 8 * words.itemsize // bits, bits) @ weights
    return out


@dataclass(frozen=True)
class Mlx(Packed):
    """MLX: words of codes along the columns, scales and biases (https://github.com/ml-explore/mlx)."""

    def codes(self, begin: int, end: int) -> U8:
        words = self.need("weight", WORDS, self.shape[0], self.shape[1] * self.bits // 32)
        return unpack_bits(words.read(begin, end), self.bits)

    def groups(self, begin: int, end: int) -> Groups:
        shape = (self.shape[0], self.shape[1] // self.group_size)
        scales, biases = (self.need(name, FLOATS, *shape) for name in ("scales", "biases"))
        return Groups(floats(scales, begin, end), bias=floats(biases, begin, end))


@dataclass(frozen=True)
class Gptq(Packed):
    """GPTQ: words of codes along the inputs, [inputs / per word, outputs]; zero points are one less than meant, unless
    of version 2 (https://github.com/AutoGPTQ/AutoGPTQ)."""

    zero_add: int = 1

    def codes(self, begin: int, end: int) -> U8:
        words = self.need("qweight", WORDS, self.shape[1] * self.bits // 32, self.shape[0]).read()
        return unpack_bits(np.ascontiguousarray(words[:, begin:end].T), self.bits)

    def groups(self, begin: int, end: int) -> Groups:
        count = -(-self.shape[1] // self.group_size)
        scales = self.need("scales", FLOATS, count, self.shape[0])
        zeros = self.need("qzeros", WORDS, count, self.shape[0] * self.bits // 32)
        zero = (unpack_bits(zeros.read(), self.bits).astype(np.int32) + self.zero_add) & ((2 << self.bits) - 1)
        return Groups(floats(scales)[:, begin:end].T, zero=zero[:, begin:end].T.astype(np.float32))


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output of each four bits of a word, lowest first


@dataclass(frozen=True)
class Awq(Packed):
    """AWQ: words of four-bit codes along the outputs, in an order of their own (https://github.com/mit-han-lab/llm-awq)."""

    def _outputs(self, words: Rows) -> U8:
        nibbles = unpack_bits(words, 4).reshape(*words.shape, 8)
        out = np.empty_like(nibbles)
        out[:, :, list(AWQ_ORDER)] = nibbles
        return out.reshape(len(words), 8 * words.shape[1])

    def codes(self, begin: int, end: int) -> U8:
        words = self.need("qweight", WORDS, self.shape[1], self.shape[0] // 8)
        return np.ascontiguousarray(self._outputs(words.read())[:, begin:end].T)

    def groups(self, begin: int, end: int) -> Groups:
        count = -(-self.shape[1] // self.group_size)
        scales = self.need("scales", FLOATS, count, self.shape[0])
        zeros = self._outputs(self.need("qzeros", WORDS, count, self.shape[0] // 8).read())
        return Groups(floats(scales)[:, begin:end].T, zero=zeros[:, begin:end].T.astype(np.float32))


@dataclass(frozen=True)
class CompressedTensors(Packed):
    """compressed-tensors: codes along the columns, packed in words or bytes (int8), and scales; symmetric
    (https://github.com/neuralmagic/compressed-tensors)."""

    def codes(self, begin: int, end: int) -> U8:
        if "weight" in self.parts:
            return self.need("weight", ("I8",), *self.shape).read(begin, end).view(np.uint8) ^ np.uint8(128)
        per_word = 32 // self.bits
        words = self.need("weight_packed", WORDS, self.shape[0], -(-self.shape[1] // per_word))
        return np.ascontiguousarray(unpack_bits(words.read(begin, end), self.bits)[:, : self.shape[1]])

    def groups(self, begin: int, end: int) -> Groups:
        count = -(-self.shape[1] // self.group_size)
        scale = floats(self.need("weight_scale", FLOATS, self.shape[0], count), begin, end)
        return Groups(scale, zero=np.full_like(scale, 1 << (self.bits - 1)))


@dataclass(frozen=True)
class BitNet(Packed):
    """BitNet: -1, 0 and 1 as 0, 1 and 2, four quarters of the rows in the two bits each of a byte, and one scale
    (transformers' integrations/bitnet.py).

    Attributes:
        divides: whether weights are divided by the scale instead of multiplied.
    """

    divides: bool = False

    def codes(self, begin: int, end: int) -> U8:
        quarter = self.shape[0] // 4
        packed = self.need("weight", ("U8",), quarter, self.shape[1])
        out = np.empty((end - begin, self.shape[1]), np.uint8)
        at = begin
        while at < end:
            number = at // quarter
            until = min(end, (number + 1) * quarter)
            rows = packed.read(at - number * quarter, until - number * quarter).astype(np.uint8, copy=False)
            out[at - begin : until - begin] = rows >> np.uint8(2 * number) & 3
            at = until
        if out.max(initial=0) > 2:
            raise CheckpointError(f"{self.path}: '{self.name}' has codes other than 0, 1 and 2, so it is not ternary")
        return out + np.uint8(1)  # as the codec has it, where 2 stands for zero

    def groups(self, begin: int, end: int) -> Groups:
        scale = floats(self.need("weight_scale", FLOATS, 1))
        with np.errstate(divide="ignore"):
            value = np.float32(1) / scale if self.divides else scale
        wide: F32 = np.full((end - begin, 1), value[0], np.float32)
        return Groups(wide, zero=np.full_like(wide, 2))
