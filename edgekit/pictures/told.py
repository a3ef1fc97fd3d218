"""What a manifest tells of pictures; hostile until checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.bundle.layout import MANIFEST
from edgekit.errors import BundleError

MOST = 1 << 24  # of a token's id and of rows
MOST_SIDE = 4096  # of a patch in pixels, and of a grid in patches


def checked(bundle: Path, told: Any) -> Mapping[str, Any]:
    """A manifest's `pictures`, whose members have their types and make sense.

    Raises:
        BundleError: they do not.
    """
    if isinstance(told, Mapping) and _sound(told):
        return told
    raise BundleError(f"{bundle / MANIFEST}: 'pictures' is malformed; convert the checkpoint again")


def _sound(told: Mapping[str, Any]) -> bool:
    tokens, marks = [told.get("token")], told.get("marks", [])
    if not isinstance(marks, list):
        return False
    tokens += marks
    sides = [told.get(key) for key in ("patch", "merge", "grid")]
    if not all(type(n) is int and 0 <= n < MOST for n in tokens):
        return False
    if not all(type(n) is int and 0 < n <= MOST_SIDE for n in sides) or told["merge"] > told["grid"]:
        return False
    rows = told.get("rows")
    return (
        type(rows) is int
        and 0 < rows < MOST
        and isinstance(told.get("kind"), str)
        and isinstance(told.get("settings"), Mapping)
        and type(told.get("both_ways")) is bool
        and all(type(told.get(key, False)) is bool for key in ("channels_last", "interpolated"))
    )
