"""Round to nearest: scales from the range of each group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F16 = npt.NDArray[np.float16]

HALF_MAX = 65504.0


def symmetric_scales(groups: F32, bits: int) -> F16:
    """Scales [..., groups] of groups [..., groups, size] for codes centred on 2^(bits-1).

    The value of largest magnitude gets the code farthest from the centre, on the side that has one
    more (as in llama.cpp's Q4_0), so that all codes are used whatever its sign.
    """
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    extreme = np.where(-low > high, low, high)
    scale: F16 = np.clip(extreme / -float(1 << (bits - 1)), -HALF_MAX, HALF_MAX).astype("<f2")
    return scale


def asymmetric_scales(groups: F32, bits: int) -> tuple[F16, F16]:
    """Scales and biases [..., groups] that map the codes onto the range of each group."""
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    bias = np.clip(low, -HALF_MAX, HALF_MAX).astype("<f2")
    # The bias was rounded: measure the range from where it came to lie.
    reach = np.maximum(high - bias.astype(np.float32), 0)
    scale = np.clip(reach / float((1 << bits) - 1), 0, HALF_MAX).astype("<f2")
    return scale, bias
