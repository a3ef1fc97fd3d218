"""Tensors in MXFP4 (OCP Microscaling Formats 1.0), as gpt-oss stores its experts: read as if they were f32.

`NAME_blocks` u8 [..., rows, groups, 16] holds two values a byte, the first in the low bits, of a sign, two bits of
exponent and one of mantissa; `NAME_scales` u8 [..., rows, groups] the power of two of each group of 32, plus 127.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.gguf_kept import MXFP4, fp4_arrays
from edgekit.checkpoint.safetensors import Tensor
from edgekit.codecs import Codec
from edgekit.errors import CheckpointError

GROUP = 32
BLOCKS, SCALES = "_blocks", "_scales"
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = np.array([*_MAGNITUDES, *(-m for m in _MAGNITUDES)], np.float32)


@dataclass(frozen=True)
class Mxfp4Tensor(Tensor):
    """A tensor of dtype F32 for those that read it; `blocks` and `scales` are what the file holds."""

    blocks: Tensor | None = None
    scales: Tensor | None = None

    @property
    def codec(self) -> Codec | None:
        """The palette with scales that holds the blocks as they are; of a matrix."""
        return MXFP4.codec if len(self.shape) == 2 else None

    @property
    def shared(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays of `codec` that all rows share."""
        return MXFP4.shared

    def arrays(self, begin: int, end: int) -> dict[str, npt.NDArray[Any]]:
        """Rows [begin, end) as the arrays of `codec`, those that are `shared` left out.

        Raises:
            ConvertError: a scale is beyond what the codec holds.
        """
        assert self.blocks is not None
        assert self.scales is not None
        exponents = self.scales.read(begin, end).astype(np.uint8, copy=False).reshape(-1, 1)
        made = fp4_arrays(exponents, _codes(self.blocks.read(begin, end)).reshape(-1, GROUP))
        return {name: values.reshape(end - begin, -1) for name, values in made.items()}

    def item(self, index: int) -> Mxfp4Tensor:
        """One of the tensors that this one stacks along its first axis."""
        assert self.blocks is not None
        assert self.scales is not None
        blocks, scales = self.blocks.item(index), self.scales.item(index)
        return replace(self, shape=self.shape[1:], blocks=blocks, scales=scales)

    def read(self, begin: int = 0, end: int | None = None) -> npt.NDArray[np.generic]:
        """Rows [begin, end), f32 [end - begin, ...].

        Raises:
            CheckpointError: the file ends too early or cannot be read.
        """
        assert self.blocks is not None
        assert self.scales is not None
        return decode(self.blocks.read(begin, end), self.scales.read(begin, end))


def decode(blocks: npt.NDArray[np.generic], scales: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """f32 [..., groups * 32] of blocks u8 [..., groups, 16] and scales u8 [..., groups]."""
    powers = scales.astype(np.int32) - 127
    with np.errstate(over="ignore"):
        wide = np.ldexp(VALUES[_codes(blocks)], powers[..., None])
    out: npt.NDArray[np.float32] = wide.reshape(*blocks.shape[:-2], -1)
    return out


def _codes(blocks: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Codes u8 [..., groups, 32] of blocks u8 [..., groups, 16]."""
    packed = blocks.astype(np.uint8, copy=False)
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], GROUP)


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint with each pair of blocks and scales as one, under the name of the blocks.

    Raises:
        CheckpointError: the shapes of a pair do not go together.
    """
    out = dict(tensors)
    for name, blocks in tensors.items():
        scales = tensors.get(name.removesuffix(BLOCKS) + SCALES)
        if not name.endswith(BLOCKS) or scales is None or (blocks.dtype, scales.dtype) != ("U8", "U8"):
            continue
        if len(blocks.shape) < 3 or blocks.shape[-1] != GROUP // 2 or blocks.shape[:-1] != scales.shape:
            raise CheckpointError(
                f"{blocks.path}: '{name}' of shape {list(blocks.shape)} and its scales of shape {list(scales.shape)} "
                "are no MXFP4 tensor"
            )
        shape = (*blocks.shape[:-2], blocks.shape[-2] * GROUP)
        out[name] = Mxfp4Tensor(name, blocks.path, "F32", shape, blocks.offset, blocks, scales)
        del out[scales.name]
    return out
