"""checkpoint -> architecture -> recipe -> codecs, tensor by tensor -> bundle."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgekit.arch import describe
from edgekit.bundle.layout import MANIFEST, plan_layout
from edgekit.bundle.writer import Progress, Writer
from edgekit.checkpoint import locate, open_checkpoint
from edgekit.errors import ConvertError
from edgekit.recipe import Recipe, load_recipe
from edgekit.version import __version__


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes:
        path: the bundle.
        recipe: name of the recipe.
        parameters: weights in matrices.
        bundle_bytes: size of the bundle's weights.
        bits_per_weight: those bytes per weight, everything included.
        seconds: how long it took.
        resumed: matrices that an earlier, interrupted call had finished.
        restarted: leftovers of a call with another source or recipe were thrown away.
    """

    path: Path
    recipe: str
    parameters: int
    bundle_bytes: int
    bits_per_weight: float
    seconds: float
    resumed: int
    restarted: bool


def convert(
    checkpoint: str | Path,
    out: str | Path,
    recipe: str | Path | Recipe | None = None,
    *,
    method: str | None = None,
    bits: int | None = None,
    group_size: int | None = None,
    revision: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Converts a checkpoint to a bundle.

    Args:
        checkpoint: a folder, or a hub id.
        out: the bundle to make; ".edgekit" is appended when it has no such suffix.
        recipe: a preset's name, a TOML file or a `Recipe`; "palette4" if nothing is said.
        method: with `bits` and `group_size`, a recipe in three words.
        revision: of a hub id.
        threads: matrices encoded at once; all cores if not given.
        overwrite: replace an existing bundle.
        progress: called with (weights done, weights in all).

    Raises:
        EdgekitError: one line that says what is wrong and what to do.
    """
    begin = time.monotonic()
    chosen = load_recipe(recipe, method, bits, group_size)
    target = bundle_path(out)
    source = locate(str(checkpoint), revision)
    opened = open_checkpoint(source.path)
    model = describe(opened.config, {n: t.shape for n, t in opened.tensors.items()}, opened.generation)
    layout = plan_layout(model, chosen)
    _check_target(target, overwrite)
    provenance = {
        "edgekit": __version__,
        "source": source.name,
        "revision": source.revision,
        "source_sha256": opened.identity,
        "recipe": chosen.name,
        "rules": chosen.table(),
    }
    key = hashlib.sha256(f"{__version__}:{opened.fingerprint}:{chosen.fingerprint()}".encode()).hexdigest()
    writer = Writer(opened, model, layout, target, provenance, key)
    writer.run(threads or os.cpu_count() or 1, progress or (lambda done, total: None))
    parameters = sum(p.rows * p.cols for m in layout.matrices for p in m.parts)
    size = layout.resident_bytes + layout.flash_bytes
    return Conversion(
        target,
        chosen.name,
        parameters,
        size,
        size * 8 / parameters,
        time.monotonic() - begin,
        writer.resumed,
        writer.restarted,
    )


def bundle_path(out: str | Path) -> Path:
    """`out` with the suffix that bundles have."""
    path = Path(out)
    return path if path.suffix == ".edgekit" else path.with_name(path.name + ".edgekit")


def _check_target(target: Path, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise ConvertError(f"{target.parent}: no such folder; make it first")
    if not target.exists():
        return
    if not overwrite:
        raise ConvertError(f"{target}: exists already; choose another name or pass --overwrite")
    if not (target / MANIFEST).is_file():
        raise ConvertError(f"{target}: is not a bundle, so it is not replaced; choose another name")
