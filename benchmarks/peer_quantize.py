"""Weights through a type of llama.cpp and back: python peer_quantize.py IN.npz OUT.npz TYPE; needs edgekit[bench].

Run as a program, in a process of its own. Prints the type's bits per weight.
"""

from __future__ import annotations

import ctypes as c
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize


def main(given: str, made: str, name: str) -> None:
    """Quantizes every array f32 [rows, columns] of a file."""
    kind = gguf.GGMLQuantizationType[name]
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = c.CDLL(str(next(folder.glob("libggml-base.so*"))))
    quantize = library.ggml_quantize_chunk
    quantize.restype = c.c_size_t
    quantize.argtypes = [c.c_int, c.c_void_p, c.c_void_p, c.c_int64, c.c_int64, c.c_int64, c.c_void_p]
    library.ggml_quantize_init(c.c_int(int(kind)))
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = {}
    with np.load(given) as arrays:
        for key in arrays.files:
            rows = np.ascontiguousarray(arrays[key], np.float32)
            weights = np.ones(rows.shape[1], np.float32)  # some types demand importances: all the same
            raw = np.empty((rows.shape[0], rows.shape[1] // block * size), np.uint8)
            count = quantize(
                int(kind), rows.ctypes.data, raw.ctypes.data, 0, rows.shape[0], rows.shape[1], weights.ctypes.data
            )
            assert count == raw.nbytes
            out[key] = dequantize(raw, kind).reshape(rows.shape).astype(np.float32)
    np.savez(made, **out)
    print(8 * size / block)


if __name__ == "__main__":
    main(*sys.argv[1:])
