"""Affine quantization: code * scale + bias, with a scale for each group of columns of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F16, U8, Arrays, ArraySpec, Codec, pad_record, padded, records_from, register, widened
from edgekit.codecs.forms import AffineForm
from edgekit.codecs.planes import pack, unpack
from edgekit.errors import RecipeError

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128, 256)


@dataclass(frozen=True)
class Affine(Codec):
    """2 to 8 bits in groups of 32 to 256 columns; scales (and biases) are f16.

    Symmetric: weight = scale * (code - 2^(bits-1)). Otherwise weight = scale * code + bias.
    Arrays: codes u8 [rows, cols], scale f16 [rows, groups], and bias likewise unless symmetric.
    """

    bits: int = 4
    group_size: int = 32
    symmetric: bool = True
    name: str = "affine"
    form: str = "affine"

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS:
            raise RecipeError(f"affine has {', '.join(map(str, WIDTHS))} bits, not {self.bits}")
        if self.group_size not in GROUPS:
            raise RecipeError(f"affine groups have {', '.join(map(str, GROUPS))} columns, not {self.group_size}")

    def groups(self, cols: int) -> int:
        """Groups of a row; the last may be short."""
        return -(-cols // self.group_size)

    def arrays(self, rows: int, cols: int) -> tuple[ArraySpec, ...]:
        groups = (rows, self.groups(cols))
        scales = [ArraySpec(n, groups, "f16", 16) for n in (("scale",) if self.symmetric else ("scale", "bias"))]
        return (ArraySpec("codes", (rows, cols), "u8", self.bits), *scales)

    def record_bytes(self, cols: int) -> int:
        return self._codes_at(cols) + pad_record(padded(cols) * self.bits // 8)

    def _codes_at(self, cols: int) -> int:
        """Offset of the codes: they follow the scales, so that kernels read a record front to back."""
        return pad_record(self.groups(cols) * (2 if self.symmetric else 4))

    def pack(self, arrays: Arrays, cols: int) -> U8:
        groups, codes = self.groups(cols), arrays["codes"]
        head = np.zeros((len(codes), self._codes_at(cols)), dtype=np.uint8)
        head[:, : 2 * groups] = _bytes(arrays["scale"])
        if not self.symmetric:
            head[:, 2 * groups : 4 * groups] = _bytes(arrays["bias"])
        return records_from([head, pack(widened(codes, padded(cols)), self.bits)], self.record_bytes(cols))

    def unpack(self, records: U8, cols: int) -> dict[str, npt.NDArray[Any]]:
        groups = self.groups(cols)
        at, size = self._codes_at(cols), padded(cols) * self.bits // 8
        codes = unpack(np.ascontiguousarray(records[:, at : at + size]), self.bits, padded(cols))[:, :cols]

        def halves(begin: int) -> F16:
            return np.ascontiguousarray(records[:, begin : begin + 2 * groups]).view("<f2")

        out: dict[str, npt.NDArray[Any]] = {"codes": codes, "scale": halves(0)}
        return out if self.symmetric else out | {"bias": halves(2 * groups)}

    def values(self, arrays: Arrays, cols: int) -> AffineForm:
        scale = arrays["scale"]
        bias = scale * np.float16(-(1 << (self.bits - 1))) if self.symmetric else arrays["bias"]
        return AffineForm(arrays["codes"], self.bits, scale, bias, self.group_size, self.symmetric)

    def manifest(self) -> dict[str, Any]:
        return {
            "codec": self.name,
            "bits": self.bits,
            "group_size": self.group_size,
            "symmetric": self.symmetric,
        }


def _bytes(halves: npt.NDArray[Any]) -> U8:
    return np.ascontiguousarray(halves, dtype="<f2").view(np.uint8)


register("affine")(Affine)
