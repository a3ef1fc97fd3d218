"""Rotary positions as tables, for formats whose graphs cannot change frequencies with the length."""

from __future__ import annotations

import numpy as np

from edgekit.codecs.base import F32
from edgekit.converters.weights import Json, Weights
from edgekit.errors import ConvertError

DEFAULT_CONTEXT = 4096


def reach(model: Json, context: int | None) -> int:
    """Tokens an artifact is made for: what was asked, or the model's maximum up to 4096.

    Raises:
        ConvertError: beyond the model, or beyond the length at which its rotary frequencies change.
    """
    switches = [rope["switch_length"] for rope in model["ropes"] if rope.get("switch_length")]
    most: int = min([model["max_context"], *switches])
    if context is None:
        return min(most, DEFAULT_CONTEXT)
    if context > most:
        why = "the rotary frequencies change there" if most < model["max_context"] else "that is the model's maximum"
        raise ConvertError(f"a context of {context} tokens is beyond {most}: {why}; ask for {most} or fewer")
    return context


def tables(weights: Weights, index: int, context: int) -> tuple[F32, F32]:
    """cos and sin, f32 [context, dim / 2], of one of the model's ropes, its scale included."""
    rope = weights.model["ropes"][index]
    inv = weights.vector(rope["inv_freq"]).astype(np.float64)
    angle = np.arange(context)[:, None] * inv
    return (np.cos(angle) * rope["scale"]).astype(np.float32), (np.sin(angle) * rope["scale"]).astype(np.float32)
