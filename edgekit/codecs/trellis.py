"""Trellis: weights computed from the bits around them in a row's circular stream, times one scale for the row.

At equal bits it comes closer to the weights than tables do: neighbours share bits, so a row chooses among far more
sequences of values than a table of its size offers. The codes are found by a search (edgekit/solvers/viterbi.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.codecs.base import U8, Arrays, ArraySpec, Codec, padded, records_from, register
from edgekit.codecs.bitshift import STATE_BITS, UNIT, pack_stream, states_of, unpack_stream, values_of
from edgekit.codecs.forms import ComputedForm
from edgekit.codecs.scaled_palette import SCALES
from edgekit.errors import RecipeError

BITS = (2, 3, 4)


@dataclass(frozen=True)
class Trellis(Codec):
    """weight = SCALES[scale code of the row] * UNIT * value(state), see `edgekit.codecs.bitshift`.

    Arrays: codes u8 [rows, padded cols], what each column adds to the stream; scale u8 [rows, 1], codes of SCALES.
    `state_bits`: bits of the stream that one weight depends on. More are closer to the weights and take longer to
    search: twice the time for each.
    """

    bits: int = 3
    state_bits: int = 12
    name: str = "trellis"
    form: str = "computed"

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise RecipeError(f"a trellis has {', '.join(map(str, BITS))} bits, not {self.bits}")
        least, most = STATE_BITS
        if not least <= self.state_bits <= most:
            raise RecipeError(f"a trellis has {least} to {most} bits of state, not {self.state_bits}")

    def arrays(self, rows: int, cols: int) -> tuple[ArraySpec, ...]:
        return (
            ArraySpec("codes", (rows, padded(cols)), "u8", self.bits),
            ArraySpec("scale", (rows, 1), "u8", 8),
        )

    def record_bytes(self, cols: int) -> int:
        return 1 + padded(cols) * self.bits // 8

    def pack(self, arrays: Arrays, cols: int) -> U8:
        scale = arrays["scale"].astype(np.uint8, copy=False)
        return records_from([scale, pack_stream(arrays["codes"], self.bits)], self.record_bytes(cols))

    def unpack(self, records: U8, cols: int) -> dict[str, npt.NDArray[Any]]:
        codes = unpack_stream(np.ascontiguousarray(records[:, 1:]), self.bits, padded(cols))
        return {"codes": codes, "scale": records[:, :1]}

    def values(self, arrays: Arrays, cols: int) -> ComputedForm:
        values = values_of(states_of(arrays["codes"], self.bits, self.state_bits)[:, :cols])
        return ComputedForm(SCALES[arrays["scale"]] * UNIT * values, self.bits)

    def manifest(self) -> dict[str, Any]:
        return {"codec": self.name, "bits": self.bits, "state_bits": self.state_bits}


register("trellis")(Trellis)
