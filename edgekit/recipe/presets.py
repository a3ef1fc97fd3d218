"""Recipes by name. Quantized ones keep embedding and head at 8 bits, router, positions and the gates of
a linear attention's state at 16:
they are small or sensitive, and rows of the embedding are read one at a time anyway."""

from __future__ import annotations

from typing import Any

Table = dict[str, Any]

_ENDS: Table = {"method": "affine", "bits": 8, "group_size": 32}
_HALF: Table = {"method": "f16"}


def _quantized(rest: Table) -> list[tuple[str, Table]]:
    halves = [(name, _HALF) for name in ("*router", "*.beta", "*.decay", "position", "token_types")]
    return [*halves, ("embedding", _ENDS), ("head", _ENDS), ("head_project", _ENDS), ("*", rest)]


def quantized(method: str, bits: int, group_size: int | None = None) -> list[tuple[str, Table]]:
    """The rules of a quantized preset around one method for the bulk of the weights."""
    rest: Table = {"method": method, "bits": bits}
    if group_size is not None:
        rest["group_size"] = group_size
    return _quantized(rest)


PRESETS: dict[str, list[tuple[str, Table]]] = {
    "f32": [("*", {"method": "f32"})],
    "f16": [("*", {"method": "f16"})],
    "bf16": [("*", {"method": "bf16"})],
    "q8": quantized("affine", 8, 32),
    "q4": quantized("affine", 4, 32),
    **{f"scaled{bits}": quantized("scaled_palette", bits, 64) for bits in (8, 6, 5, 4, 3, 2)},
    **{f"trellis{bits}": quantized("trellis", bits) for bits in (4, 3, 2)},
    "palette8": quantized("palette", 8, 32),
    "palette6": quantized("palette", 6, 32),
    "palette4": quantized("palette", 4, 32),
    "palette3": quantized("palette", 3, 32),
    "palette2": quantized("palette", 2, 32),
    "palette1": quantized("palette", 1, 32),
}
