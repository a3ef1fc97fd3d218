"""Matrices whose codes, scales and tables are trained.

What is stored is rounded, and rounding has no gradient: it is passed on as if nothing were rounded (straight-through
estimator, arXiv 1308.3432). A matrix whose codes are trained has weights in full precision beside them, which gradients
move, and codes follow: those of palettes at every step, those of a trellis when it is searched again.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgekit.codecs.base import F16, U8, Arrays, Codec, padded, widened
from edgekit.codecs.bitshift import UNIT, states_of, values_of
from edgekit.codecs.scaled_palette import ONE, STEPS, ScaledPalette
from edgekit.codecs.trellis import Trellis
from edgekit.runtime.trellis import TrellisRows, search_pass

Made = dict[str, npt.NDArray[Any]]
LARGEST = 127  # of a table's entries, in 1/128
TABLE_STEP = 1 / 128


def rounded(x: Tensor, low: float, high: float) -> Tensor:
    """The nearest whole numbers from `low` to `high`; the gradient is that of x."""
    return x + (x.round().clamp(low, high) - x).detach()


def scales_of(codes: Tensor) -> Tensor:
    """What scale codes that are trained stand for: their gradient is that of the power; 0 stays 0."""
    whole = rounded(codes, 0, 255)
    return torch.where(whole > 0, torch.exp((whole - ONE) * (math.log(2) / STEPS)), 0.0)


class TrainedPart(ABC):
    """A part of a matrix, [rows, cols].

    Attributes:
        parameters: what is trained, by name, each with the size of a step relative to the learning rate.
    """

    parameters: dict[str, tuple[Tensor, float]]

    @abstractmethod
    def weight(self) -> Tensor:
        """The weights f32 [rows, cols] as the bundle will hold them, with gradients."""

    def search(self, round_number: int) -> None:  # noqa: B027
        """Chooses codes anew where they do not follow the weights by themselves."""

    @abstractmethod
    def arrays(self) -> Made:
        """The arrays of the codec."""

    def extra(self) -> dict[str, Tensor]:
        """What a state must hold beside the parameters."""
        return {}

    def restore(self, extra: dict[str, Tensor]) -> None:  # noqa: B027
        """Takes over what `extra` gave."""


def trained_part(codec: Codec, arrays: Arrays, cols: int, codes_too: bool) -> TrainedPart | None:
    """A part to train, of the arrays of a whole matrix; None for codecs that stay as they are.

    Args:
        codec: of the part.
        arrays: of all rows, tables included.
        cols: of the matrix.
        codes_too: train codes as well as scales and tables.
    """
    if isinstance(codec, Trellis):
        return _TrainedTrellis(codec, arrays, cols, codes_too)
    if isinstance(codec, ScaledPalette) and codec.lut_rows in (0, len(arrays["codes"])):
        return _TrainedPalette(codec, arrays, cols, codes_too)
    return None


def _latent(weight: npt.NDArray[np.float32], bits: int) -> tuple[Tensor, float]:
    """Weights in full precision and the size of their steps, which is that of the distance between codes."""
    size = float(np.sqrt(np.square(weight, dtype=np.float64).mean())) * 2.0 ** (2 - bits)
    return torch.tensor(weight).requires_grad_(True), size


class _TrainedTrellis(TrainedPart):
    """Codes of a trellis and a scale for each row."""

    def __init__(self, codec: Trellis, arrays: Arrays, cols: int, codes_too: bool) -> None:
        self.codec, self.cols = codec, cols
        self.codes: U8 = np.array(arrays["codes"], np.uint8)
        scale = torch.tensor(arrays["scale"].astype(np.float32)).requires_grad_(True)
        self.parameters = {"scale": (scale, STEPS)}
        if codes_too:
            self.parameters["weight"] = _latent(codec.values(arrays, cols).dense(), codec.bits)
        self._decode()

    def _decode(self) -> None:
        states = states_of(self.codes, self.codec.bits, self.codec.state_bits)[:, : self.cols]
        self.values = torch.tensor(values_of(states) * UNIT)

    def weight(self) -> Tensor:
        made = self.values * scales_of(self.parameters["scale"][0])
        if "weight" not in self.parameters:
            return made
        latent = self.parameters["weight"][0]
        return made + (latent - latent.detach())

    def search(self, round_number: int) -> None:
        if "weight" not in self.parameters:
            return
        scale, latent = self.parameters["scale"][0], self.parameters["weight"][0]
        width = padded(self.cols)
        begin = round_number * 5 * width // 13 % width  # where a pass begins, its ends stay
        rows = TrellisRows.begin(widened(latent.detach().numpy(), width), self._scale_codes()[:, 0])
        rows.codes[:] = self.codes
        search_pass(rows, self.codec.bits, self.codec.state_bits, begin, keep_better=True)
        moved = rows.scales.astype(np.float32) - self._scale_codes()[:, 0]
        with torch.no_grad():
            scale += torch.tensor(moved)[:, None]
        self.codes = rows.codes
        self._decode()

    def _scale_codes(self) -> U8:
        codes: U8 = self.parameters["scale"][0].detach().round().clamp(0, 255).numpy().astype(np.uint8)
        return codes

    def arrays(self) -> Made:
        return {"codes": self.codes, "scale": self._scale_codes()}

    def extra(self) -> dict[str, Tensor]:
        return {"codes": torch.tensor(self.codes)}

    def restore(self, extra: dict[str, Tensor]) -> None:
        self.codes = extra["codes"].numpy()
        self._decode()


class _TrainedPalette(TrainedPart):
    """Codes of a scaled palette, its table, and a scale for each group of columns.

    Weights in full precision are kept in units of their scales, so that codes do not change with a scale: its gradient
    is then the true one.
    """

    def __init__(self, codec: ScaledPalette, arrays: Arrays, cols: int, codes_too: bool) -> None:
        self.codes = torch.tensor(arrays["codes"].astype(np.int64))
        self.group = torch.arange(cols) // codec.group_size
        scale = torch.tensor(arrays["scale"].astype(np.float32)).requires_grad_(True)
        lut = arrays["lut"].reshape(-1).astype(np.float32)
        table = torch.tensor(lut).requires_grad_(True)
        self.parameters = {"scale": (scale, STEPS), "table": (table, float(table.detach().square().mean().sqrt()))}
        if codes_too:
            self.parameters["weight"] = _latent(lut[arrays["codes"]], codec.bits)

    def _table(self) -> Tensor:
        """The table as it is stored: ascending multiples of 1/128."""
        table = self.parameters["table"][0]
        return rounded(table / TABLE_STEP, -LARGEST, LARGEST) * TABLE_STEP

    def weight(self) -> Tensor:
        table, scale = self._table(), scales_of(self.parameters["scale"][0])[:, self.group]
        if "weight" not in self.parameters:
            return table[self.codes] * scale
        latent = self.parameters["weight"][0]
        self.codes = self._nearest(latent.detach(), table.detach())
        return (table[self.codes] + (latent - latent.detach())) * scale

    @staticmethod
    def _nearest(latent: Tensor, table: Tensor) -> Tensor:
        ordered, order = table.sort()
        return order[torch.bucketize(latent, (ordered[1:] + ordered[:-1]) / 2)]

    @torch.no_grad()
    def arrays(self) -> Made:
        self.weight()  # codes follow what was trained last
        order = self._table().argsort(stable=True)
        place = order.argsort()
        lut: F16 = self._table()[order].numpy().astype("<f2")[None]
        scale = self.parameters["scale"][0].round().clamp(0, 255).numpy().astype(np.uint8)
        return {"codes": place[self.codes].numpy().astype(np.uint8), "scale": scale, "lut": lut}

    def extra(self) -> dict[str, Tensor]:
        return {"codes": self.codes}

    def restore(self, extra: dict[str, Tensor]) -> None:
        self.codes = extra["codes"]
