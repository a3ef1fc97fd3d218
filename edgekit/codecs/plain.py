"""Weights as they are: f32, f16, bf16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import F32, U8, Arrays, ArraySpec, Codec, pad_record, padded, records_from, register, widened
from edgekit.codecs.forms import DenseForm
from edgekit.errors import RecipeError


@dataclass(frozen=True)
class Plain(Codec):
    """Floating point without any table or scale; f16 and bf16 round to nearest even. Array: values f32 [rows, cols]."""

    name: str
    bits: int
    form: str = "dense"

    def arrays(self, rows: int, cols: int) -> tuple[ArraySpec, ...]:
        return (ArraySpec("values", (rows, cols), "f32", self.bits),)

    def record_bytes(self, cols: int) -> int:
        return pad_record(padded(cols) * self.bits // 8)

    def pack(self, arrays: Arrays, cols: int) -> U8:
        wide = widened(arrays["values"].astype(np.float32, copy=False), padded(cols))
        if self.name == "f32":
            raw = wide.view(np.uint8)
        elif self.name == "f16":
            with np.errstate(over="ignore"):
                raw = np.clip(wide, -65504, 65504).astype("<f2").view(np.uint8)
        else:
            raw = bf16_bits(wide).view(np.uint8)
        return records_from([raw], self.record_bytes(cols))

    def unpack(self, records: U8, cols: int) -> dict[str, npt.NDArray[Any]]:
        raw = np.ascontiguousarray(records[:, : padded(cols) * self.bits // 8])
        if self.name == "f32":
            out = raw.view("<f4")
        elif self.name == "f16":
            out = raw.view("<f2").astype(np.float32)
        else:
            out = (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        return {"values": np.ascontiguousarray(out[:, :cols], dtype=np.float32)}

    def values(self, arrays: Arrays, cols: int) -> DenseForm:
        return DenseForm(arrays["values"], self.name)

    def manifest(self) -> dict[str, Any]:
        return {"codec": self.name, "bits": self.bits}


def bf16_bits(values: F32) -> npt.NDArray[np.uint16]:
    """Numbers rounded to the nearest bf16, as their 16 bits."""
    bits = values.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2")


def _plain(name: str, bits: int) -> None:
    def make(**options: Any) -> Plain:
        if options.get("bits", bits) != bits or set(options) - {"bits"}:
            raise RecipeError(f"codec '{name}' has {bits} bits and no options")
        return Plain(name, bits)

    register(name)(make)


_plain("f32", 32)
_plain("f16", 16)
_plain("bf16", 16)
