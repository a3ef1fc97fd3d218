"""Matrices in eight-bit floats with a scale, and in bitsandbytes' NF4: read as f32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.packed import FLOATS, floats
from edgekit.checkpoint.safetensors import Tensor
from edgekit.errors import CheckpointError

F32 = npt.NDArray[np.float32]


def _e4m3() -> F32:
    """The values of F8_E4M3 by their bits; 0x7f and 0xff are no numbers."""
    bits = np.arange(256)
    exponent, mantissa = bits >> 3 & 15, bits & 7
    size = np.where(exponent == 0, np.ldexp(mantissa / 8.0, -6), np.ldexp(1 + mantissa / 8.0, exponent - 7))
    values = np.where(bits & 127 == 127, np.nan, np.where(bits < 128, size, -size))
    out: F32 = values.astype(np.float32)
    return out


E4M3 = _e4m3()


@dataclass(frozen=True)
class Float8(Tensor):
    """A matrix in F8_E4M3 with a scale for the whole, or for each row."""

    stored: Tensor | None = None
    scale: Tensor | None = None

    @property
    def codec(self) -> None:
        """None: no codec of ours has these values."""
        return None

    def read(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [begin, end), f32 [end - begin, cols]."""
        assert self.stored is not None
        assert self.scale is not None
        scale = floats(self.scale).reshape(-1, 1)
        rows = E4M3[self.stored.read(begin, end).view(np.uint8)]
        return np.asarray(rows * (scale if len(scale) == 1 else scale[begin:end]))


def float8(name: str, stored: Tensor, scale: Tensor) -> Float8:
    """A matrix in F8_E4M3.

    Raises:
        CheckpointError: a scale of another shape.
    """
    if (
        scale.dtype not in FLOATS
        or len(stored.shape) != 2
        or scale.shape not in ((), (1,), (1, 1), (stored.shape[0], 1))
    ):
        raise CheckpointError(
            f"{stored.path}: '{scale.name}' is {scale.dtype} {list(scale.shape)}, which is no scale for the whole or "
            "for rows"
        )
    return Float8(name, stored.path, "F32", stored.shape, stored.offset, stored, scale)


@dataclass(frozen=True)
class Nf4(Tensor):
    """A matrix of bitsandbytes in NF4: codes of four bits, the first in the high half of a byte, in blocks that run
    over rows; each block has a largest magnitude, which may be quantized in turn.
    """

    parts: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def codec(self) -> None:
        """None: blocks run over rows, and the largest magnitudes are f32."""
        return None

    def read(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [begin, end), f32 [end - begin, cols]."""
        end = self.shape[0] if end is None else end
        first, last = begin * self.row_items, end * self.row_items
        packed = self.parts["weight"].read(first // 2, -(-last // 2)).reshape(-1).astype(np.uint8, copy=False)
        codes = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[first % 2 : first % 2 + last - first]
        table, size = floats(self.parts["quant_map"]), self.state["blocksize"]
        blocks = np.arange(first, last) // size
        low, high = int(blocks[0]) if len(blocks) else 0, (int(blocks[-1]) + 1 if len(blocks) else 0)
        values = table[codes] * self._largest(low, high)[blocks - low]
        out: npt.NDArray[np.generic] = values.astype(np.float32).reshape(end - begin, *self.shape[1:])
        return out

    def _largest(self, begin: int, end: int) -> F32:
        """The largest magnitudes of blocks [begin, end)."""
        stored = self.parts["absmax"].read(begin, end)
        if "nested_absmax" not in self.parts:
            return stored.astype(np.float32)
        table, scale = floats(self.parts["nested_quant_map"]), floats(self.parts["nested_absmax"])
        at = np.arange(begin, end) // self.state["nested_blocksize"]
        offset = np.float32(self.state["nested_offset"])
        out: F32 = table[stored.astype(np.uint8, copy=False)] * scale[at] + offset
        return out


STATE = "quant_state.bitsandbytes__nf4"
LARGEST_STATE = 1 << 16


def nf4(name: str, parts: Mapping[str, Tensor]) -> Nf4:
    """A matrix of bitsandbytes.

    Raises:
        CheckpointError: parts that do not go together.
    """
    stored, where = parts["weight"], parts[STATE]
    try:
        if where.dtype != "U8" or len(where.shape) != 1 or where.shape[0] > LARGEST_STATE:
            raise ValueError
        state = json.loads(where.read().tobytes())
        shape = tuple(state["shape"])
        count, size = int(np.prod(shape, dtype=object)), state["blocksize"]
        blocks = -(-count // size)
        nested = "nested_absmax" in parts
        wanted = {"weight": ("U8", (-(-count // 2), 1)), "quant_map": ("F32", (16,))}
        wanted["absmax"] = ("U8" if nested else "F32", (blocks,))
        if nested:
            wanted["nested_quant_map"] = ("F32", (256,))
            wanted["nested_absmax"] = ("F32", (-(-blocks // state["nested_blocksize"]),))
            float(state["nested_offset"])
        fits = all(n in parts and (parts[n].dtype, parts[n].shape) == want for n, want in wanted.items())
        if len(shape) != 2 or not all(type(n) is int and n > 0 for n in (*shape, size)) or not fits:
            raise ValueError
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{stored.path}: the parts of '{name}' are no matrix in NF4") from error
    return Nf4(name, stored.path, "F32", shape, stored.offset, parts, state)
