"""lane64, the cheap checksum of a unit (docs/format.md, "Checksums"); the C++ twin is
runtime/src/core/checksum.cpp."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1


def lane64(data: bytes | memoryview | npt.NDArray[np.uint8]) -> int:
    """A Fletcher sum over eight interleaved lanes of 64-bit words, folded to 64 bits."""
    raw = np.frombuffer(data, dtype=np.uint8)
    whole = len(raw) // 64 * 64
    words = raw[:whole].view("<u8").reshape(-1, 8)
    if whole < len(raw):
        tail = np.zeros(64, dtype=np.uint8)
        tail[: len(raw) - whole] = raw[whole:]
        words = np.concatenate([words, tail.view("<u8").reshape(1, 8)])
    first = words.sum(axis=0, dtype=np.uint64)
    # The sum of running sums: word i of n is counted n - i times.
    times = np.arange(len(words), 0, -1, dtype=np.uint64)
    second = (words * times[:, None]).sum(axis=0, dtype=np.uint64)
    h = 0x9E3779B97F4A7C15 ^ len(raw)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        h = (h ^ a) * 0xFF51AFD7ED558CCD & _MASK
        h ^= h >> 32
        h = (h ^ b) * 0xC4CEB9FE1A85EC53 & _MASK
        h ^= h >> 29
    return h


def hashed(text: str) -> str:
    """SHA-256 in hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
