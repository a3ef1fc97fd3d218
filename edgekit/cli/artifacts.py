"""The artifacts of a bundle, as `inspect` lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.cli.common import human
from edgekit.errors import EdgekitError


def list_artifacts(bundle: Path, weights: int) -> list[dict[str, Any]]:
    """One entry for each folder in BUNDLE/artifacts; what is wrong with one is its `problem`, never an error.

    Args:
        bundle: its folder.
        weights: of the bundle, which re-quantized ones are a share of.
    """
    from edgekit.converters.base import ARTIFACTS
    from edgekit.converters.kinds import KINDS

    folder = bundle / ARTIFACTS
    try:
        found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []
    known = [_describe(bundle, kind, weights) for kind in found if kind in KINDS]
    others = [_entry(kind, problem="not a kind that this edgekit knows") for kind in found if kind not in KINDS]
    return known + others


def _entry(kind: str, **known: Any) -> dict[str, Any]:
    """An artifact of which some things are known."""
    unknown = dict.fromkeys(("bytes", "context", "precision", "requantized_share", "requantized_rms"))
    return {"kind": kind, **unknown, "matches_bundle": False, "problem": None, **known}


def _describe(bundle: Path, kind: str, weights: int) -> dict[str, Any]:
    from edgekit.converters.base import read

    try:
        artifact = read(bundle, kind)
        about, size = artifact.about, artifact.bytes
    except (EdgekitError, OSError) as error:
        return _entry(kind, problem=str(error))
    lossy, error_rms = about.get("requantized_weights", 0), about.get("requantized_rms", 0.0)
    precision = about.get("precision")
    if not _number(lossy) or not _number(error_rms) or not _word(precision):
        return _entry(kind, bytes=size, problem="its edgekit.json is malformed; export it again with --overwrite")
    return _entry(
        kind,
        bytes=size,
        context=about["context"],
        precision=precision,
        requantized_share=round(min(1.0, lossy / weights), 4),
        requantized_rms=error_rms,
        matches_bundle=True,
    )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30


def _word(value: object) -> bool:
    """Whether a value is nothing, or a word that fits a line."""
    return value is None or (isinstance(value, str) and value.isprintable() and len(value) < 32)


def artifact_line(a: dict[str, Any]) -> str:
    """An entry of `list_artifacts` for people."""
    if a["problem"]:
        return f"{a['kind']}: {a['problem']}"
    weights = (
        f"{a['requantized_share']:.0%} of the weights re-quantized with {a['requantized_rms']:.2%} error"
        if a["requantized_share"]
        else "weights as in the bundle"
    )
    precision = f", arithmetic in {a['precision']}" if a["precision"] else ""
    return f"{a['kind']}: {human(a['bytes'])}, context {a['context']}{precision}, {weights}"
