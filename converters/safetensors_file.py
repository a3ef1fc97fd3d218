"""Writing a safetensors file whose tensors never are in memory together.

https://github.com/huggingface/safetensors#format: the header with all offsets comes first, so the data
goes to a file beside it until the last tensor is known.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAMES = {"float32": "F32", "float16": "F16", "uint8": "U8", "uint32": "U32", "int32": "I32", "bfloat16": "BF16"}


class SafetensorsFile:
    """`add` tensors, then `close`; only then does `path` exist."""

    def __init__(self, path: Path) -> None:
        self.path, self.aside = path, path.with_name(path.name + ".data")
        self.stream = self.aside.open("wb")
        self.header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}

    def add(self, name: str, values: npt.NDArray[Any], dtype: str | None = None) -> None:
        """Appends a tensor; `dtype` "bfloat16" for u16 values that are such."""
        values = np.ascontiguousarray(values)
        begin = self.stream.tell()
        self.stream.write(values.data.cast("B") if values.size else b"")
        self.header[name] = {
            "dtype": NAMES[dtype or values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [begin, self.stream.tell()],
        }

    def close(self) -> None:
        """Writes the file."""
        self.stream.close()
        text = json.dumps(self.header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with self.path.open("wb") as out, self.aside.open("rb") as data:
            out.write(len(text).to_bytes(8, "little"))
            out.write(text)
            shutil.copyfileobj(data, out, 1 << 20)
        self.aside.unlink()
