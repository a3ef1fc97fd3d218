"""Weights of an ONNX graph: written once to an external data file, as they are read from the bundle."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

INLINE = 1024  # bytes up to which a tensor stays in the graph itself
PAGE, PAGED_FROM = 4096, 1 << 20  # the ONNX specification's advice for tensors that may be mapped
SMALL = 64

Array = npt.NDArray[Any]


class DataFile:
    """Appends tensors to `folder/name`; the whole model is never in memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.stream: BinaryIO = (folder / name).open("wb")

    def __enter__(self) -> DataFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.stream.close()

    def tensor(self, name: str, values: Array, dtype: ir.DataType | None = None) -> ir.TensorProtocol:
        """A tensor of the graph. `dtype`: of what `values` holds the bits of (bf16)."""
        values = np.ascontiguousarray(values)
        kind = dtype or ir.DataType.from_numpy(values.dtype)
        if values.nbytes <= INLINE and dtype is None:
            return ir.tensor(values, name=name)
        align = PAGE if values.nbytes >= PAGED_FROM else SMALL
        at = self.stream.tell()
        self.stream.write(bytes(-at % align))
        offset = at + -at % align
        self.stream.write(values.data.cast("B"))
        return ir.ExternalTensor(
            self.name, offset, values.nbytes, kind, shape=ir.Shape(values.shape), name=name, base_dir=str(self.folder)
        )


def blocks_of(codes: npt.NDArray[np.uint8], bits: int, block: int) -> npt.NDArray[np.uint8]:
    """Codes [rows, cols] as MatMulNBits holds them: [rows, ceil(cols / block), block * bits / 8], low nibble first.

    Columns that fill up the last block get the code in the middle, which stands for zero.
    """
    rows, cols = codes.shape
    count = -(-cols // block)
    wide = np.full((rows, count * block), 1 << (bits - 1), dtype=np.uint8)
    wide[:, :cols] = codes
    if bits == 4:
        wide = wide[:, ::2] | (wide[:, 1::2] << np.uint8(4))
    return wide.reshape(rows, count, block * bits // 8)
