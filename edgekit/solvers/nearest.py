"""Round to nearest: scales from the range of each group, and each code for itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgekit.codecs.affine import Affine
from edgekit.codecs.base import F16, F32, Arrays, Codec
from edgekit.codecs.plain import Plain
from edgekit.solvers.base import Made, Solver, Statistics, register

HALF_MAX = 65504.0


class Nearest(Solver):
    """Plain numbers as they are; affine codes on a grid that spans each group's range."""

    name = "nearest"

    def takes(self, codec: Codec) -> bool:
        return isinstance(codec, Plain | Affine)

    def solve(self, codec: Codec, rows: F32, shared: Arrays, statistics: Statistics) -> Made:
        if isinstance(codec, Plain):
            return {"values": rows}
        assert isinstance(codec, Affine)
        return affine_arrays(codec, rows)


def grouped(rows: F32, group_size: int) -> F32:
    """Rows [n, cols] as groups [n, groups, group_size]; a short last group repeats a value, so no range widens."""
    n, cols = rows.shape
    groups = -(-cols // group_size)
    wide = np.empty((n, groups * group_size), dtype=np.float32)
    wide[:, :cols] = rows
    wide[:, cols:] = rows[:, -1:]
    return wide.reshape(n, groups, group_size)


def affine_arrays(codec: Affine, rows: F32) -> Made:
    """codes u8 [n, cols], scale f16 [n, groups], and bias f16 [n, groups] unless the codec is symmetric."""
    groups = grouped(rows, codec.group_size)
    if codec.symmetric:
        scale = symmetric_scales(groups, codec.bits)
        arrays: Made = {"scale": scale}
        bias = scale.astype(np.float32) * -float(1 << (codec.bits - 1))
    else:
        scale, bias16 = asymmetric_scales(groups, codec.bits)
        arrays = {"scale": scale, "bias": bias16}
        bias = bias16.astype(np.float32)
    step = scale.astype(np.float32)
    inverse = np.divide(1.0, step, out=np.zeros_like(step), where=step != 0)
    top = np.float32((1 << codec.bits) - 1)
    codes = np.clip(np.rint((groups - bias[..., None]) * inverse[..., None]), 0, top)
    if codec.symmetric:
        codes[step == 0] = 1 << (codec.bits - 1)
    return {"codes": codes.astype(np.uint8).reshape(len(rows), -1)[:, : rows.shape[1]], **arrays}


def symmetric_scales(groups: F32, bits: int) -> F16:
    """Scales [..., groups] of groups [..., groups, size] for codes centred on 2^(bits-1).

    The value of largest magnitude gets the code farthest from the centre, on the side that has one
    more (as in llama.cpp's Q4_0), so that all codes are used whatever its sign.
    """
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    extreme = np.where(-low > high, low, high)
    scale: F16 = np.clip(extreme / -float(1 << (bits - 1)), -HALF_MAX, HALF_MAX).astype("<f2")
    return scale


def asymmetric_scales(groups: F32, bits: int) -> tuple[F16, npt.NDArray[np.float16]]:
    """Scales and biases [..., groups] that map the codes onto the range of each group."""
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    bias = np.clip(low, -HALF_MAX, HALF_MAX).astype("<f2")
    # The bias was rounded: measure the range from where it came to lie.
    reach = np.maximum(high - bias.astype(np.float32), 0)
    scale = np.clip(reach / float((1 << bits) - 1), 0, HALF_MAX).astype("<f2")
    return scale, bias


register(Nearest())
