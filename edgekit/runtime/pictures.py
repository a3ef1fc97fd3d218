"""Encoders of pictures, through the C ABI; and what a session was given in place of tokens."""

from __future__ import annotations

import ctypes as c
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgekit.errors import RuntimeFailure
from edgekit.runtime import native
from edgekit.runtime.handle import Handle

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Given:
    """Positions [begin, end) of a session that were given as embeddings; `digest` tells them from others."""

    begin: int
    end: int
    digest: bytes

    def until(self, position: int) -> Given:
        """What is left of them when a session goes back to a position."""
        return self if position >= self.end else Given(self.begin, position, b"a part of " + self.digest)


@dataclass(frozen=True, eq=False)
class PictureRows:
    """What stands in a prompt for a picture, or a tile of one, from token `begin` on.

    Attributes:
        begin: the first of its tokens.
        rows: f32 [count, hidden_size], in place of their embeddings.
        both_ways: whether they see each other.
    """

    begin: int
    rows: F32
    both_ways: bool = False

    @property
    def end(self) -> int:
        return self.begin + len(self.rows)

    @cached_property
    def given(self) -> Given:
        """As a session tells of it."""
        return Given(self.begin, self.end, digest_of(self.rows))


def digest_of(rows: F32) -> bytes:
    """The same for the same embeddings alone."""
    return hashlib.blake2b(np.ascontiguousarray(rows, dtype=np.float32).tobytes(), digest_size=16).digest()


def encode_patches(
    session: Handle,
    sizes: tuple[int, int, int],
    patches: F32,
    positions: Sequence[int] | npt.NDArray[np.uint32] | None,
    added: F32 | None,
) -> F32:
    """See `Session.encode`; `sizes`: values of a patch, patches of a row, values of a row."""
    _, merged, width = sizes
    given = np.ascontiguousarray(patches, dtype=np.float32)
    places = np.ascontiguousarray(np.zeros(len(given)) if positions is None else positions, dtype=np.int64)
    if given.ndim != 2 or places.shape != (len(given),) or (places < 0).any() or (places >> 32).any():
        raise RuntimeFailure(f"patches have shape {given.shape} and positions {places.shape}: one for each patch")
    at = places.astype(np.uint32)
    more = None if added is None else np.ascontiguousarray(added, dtype=np.float32)
    if (more is None) == (positions is None) or (more is not None and (more.ndim != 2 or len(more) != len(given))):
        raise RuntimeFailure("patches need positions, or what is added to each of them")
    out = np.empty((len(given) // max(1, merged), width), dtype=np.float32)
    struct = native.Patches(
        count=len(given),
        values=given.ctypes.data_as(c.c_void_p),
        positions=at.ctypes.data_as(c.c_void_p),
        out=out.ctypes.data_as(c.c_void_p),
        columns=given.shape[1],
        rows=len(out),
        out_columns=width,
        added_columns=0 if more is None else more.shape[1],
        added=None if more is None else more.ctypes.data_as(c.c_void_p),
    )
    with session.use() as handle:
        native.call("session_encode", handle, c.byref(struct))
    return out
