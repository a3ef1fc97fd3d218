"""Vectors and scores of texts, through the C ABI."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgekit.errors import RuntimeFailure
from edgekit.runtime import native
from edgekit.runtime.values import token_ids

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenText:
    """A text as its tokens.

    Attributes:
        ids: of the tokens.
        types: of the tokens, as of the second text of a pair; empty: all 0.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...] = ()


@dataclass(frozen=True)
class Embedded:
    """What texts gave.

    Attributes:
        vectors: f32 [texts, hidden_size].
        scores: f32 [texts], of rerankers, before a sigmoid; of other models zeros.
        states: of each text f32 [tokens, hidden_size]; empty if they were not asked for.
    """

    vectors: F32
    scores: F32
    states: list[F32] = field(default_factory=list)


def embed_texts(
    session: c.c_void_p,
    texts: Sequence[TokenText],
    sizes: tuple[int, int],
    pooling: str | None,
    normalize: bool | None,
    states: bool,
) -> Embedded:
    """See `Session.embed`; `sizes`: of the vocabulary and of a vector."""
    vocab, hidden = sizes
    if (pooling or "bundle") not in native.POOLINGS:
        raise RuntimeFailure(f"pooling is {pooling!r}; it is one of {', '.join(list(native.POOLINGS)[1:])}")
    vectors = np.zeros((len(texts), hidden), dtype=np.float32)
    kept = [np.zeros((len(t.ids), hidden), dtype=np.float32) for t in texts] if states else []
    jobs = (native.Embedding * len(texts))()
    alive = []  # arrays that the structs point to
    for i, text in enumerate(texts):
        ids = token_ids(text.ids, vocab)
        if text.types and len(text.types) != len(ids):
            raise RuntimeFailure(f"a text has {len(ids)} tokens and {len(text.types)} token types")
        if any(not 0 <= t < 256 for t in text.types):
            raise RuntimeFailure("a token type is out of range")
        tokens = (c.c_int32 * max(1, len(ids)))(*ids)
        types = (c.c_uint8 * len(ids))(*text.types) if text.types else None
        alive += [tokens, types]
        jobs[i].struct_size, jobs[i].count = c.sizeof(native.Embedding), len(ids)
        jobs[i].tokens = c.cast(tokens, c.POINTER(c.c_int32))
        if types is not None:
            jobs[i].types = c.cast(types, c.POINTER(c.c_uint8))
        jobs[i].vector = vectors[i].ctypes.data_as(c.POINTER(c.c_float))
        if states:
            jobs[i].states = kept[i].ctypes.data_as(c.POINTER(c.c_float))
        jobs[i].pooling = native.POOLINGS[pooling or "bundle"]
        jobs[i].normalize = native.NORMALIZE["bundle" if normalize is None else "yes" if normalize else "no"]
    if texts:
        native.call("session_embed", session, jobs, len(texts))
    return Embedded(vectors, np.array([job.score for job in jobs], dtype=np.float32), kept)
