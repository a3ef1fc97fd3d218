"""Forms: what a codec's values are, for whoever does not care how they are packed.

Converters see forms and nothing else of codecs. A new form is a class here and a case in the converters that keep it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F16 = npt.NDArray[np.float16]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DenseForm:
    """Numbers: `values` f32 [rows, cols], stored as `dtype` ("f32", "f16", "bf16") in the bundle."""

    values: F32
    dtype: str

    def dense(self) -> F32:
        """f32 [rows, cols]."""
        return self.values


@dataclass(frozen=True)
class AffineForm:
    """`scale * code + bias` with one scale and bias per `group_size` columns.

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
        scale = self.scale.astype(np.float32)
        bias = scale * -float(1 << (self.bits - 1)) if self.symmetric else self.bias.astype(np.float32)
        group = np.arange(self.codes.shape[1]) // self.group_size
        out = self.codes.astype(np.float32) * scale[:, group] + bias[:, group]
        return out.astype(np.float32)


@dataclass(frozen=True)
class LookupForm:
    """codes u8 [rows, cols] into lut f16 [tables, 2^bits], one table for `lut_rows` rows; times `scale` f32
    [rows, groups], one for `group_size` columns, if there are scales."""

    codes: U8
    bits: int
    lut: F16
    lut_rows: int
    scale: F32 | None = None
    group_size: int = 0

    def dense(self) -> F32:
        """f32 [rows, cols]."""
        table = np.arange(len(self.codes)) // self.lut_rows
        out: F32 = self.lut.astype(np.float32)[table[:, None], self.codes]
        if self.scale is not None:
            out *= self.scale[:, np.arange(self.codes.shape[1]) // self.group_size]
        return out


@dataclass(frozen=True)
class ComputedForm:
    """Numbers `values` f32 [rows, cols] that are computed from codes of `bits` bits as no other format does."""

    values: F32
    bits: int

    def dense(self) -> F32:
        """f32 [rows, cols]."""
        return self.values


Form = DenseForm | AffineForm | LookupForm | ComputedForm
