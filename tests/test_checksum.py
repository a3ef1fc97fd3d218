"""The Python and the C++ checksum are one function."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.bundle.checksum import lane64


def plain(data: bytes) -> int:
    """lane64 as docs/format.md tells it, byte by byte."""
    mask = (1 << 64) - 1
    a, b = [0] * 8, [0] * 8
    words = data + b"\0" * (-len(data) % 64)
    for at in range(0, len(words), 64):
        for lane in range(8):
            word = int.from_bytes(words[at + 8 * lane : at + 8 * lane + 8], "little")
            a[lane] = (a[lane] + word) & mask
            b[lane] = (b[lane] + a[lane]) & mask
    h = 0x9E3779B97F4A7C15 ^ len(data)
    for lane in range(8):
        h = (h ^ a[lane]) * 0xFF51AFD7ED558CCD & mask
        h ^= h >> 32
        h = (h ^ b[lane]) * 0xC4CEB9FE1A85EC53 & mask
        h ^= h >> 29
    return h


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 200, 4096])
def test_lane64_is_what_the_format_says(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
    assert lane64(data.tobytes()) == plain(data.tobytes())
