"""The recipe "keep": what a checkpoint has quantized already stays as it is, where a codec of ours can hold it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arch.spec import Model
from edgekit.bundle.layout import Layout, PartPlan, plan_layout, rows_per_step
from edgekit.bundle.source import RowSource
from edgekit.bundle.weights import BundleWeights
from edgekit.checkpoint import Checkpoint, Tensor
from edgekit.codecs import make_codec
from edgekit.codecs.plain import Plain
from edgekit.recipe import Recipe, Rule, load_recipe
from edgekit.recipe.recipe import KEEP

ANEW = Rule("*", make_codec("affine", 8, group_size=32))  # for what has no codec of ours, or lies the other way


@dataclass(frozen=True)
class Losses:
    """What keeping a checkpoint as it is could not keep.

    Attributes:
        kept: matrices whose weights are equal bit for bit.
        rounded: matrices that keep their codes, with scales rounded to f16.
        anew: matrices encoded anew, at 8 bits.
        rounded_error: of the second kind, root mean square of the error by that of the weights, of those looked at.
        anew_error: of the third kind.
    """

    kept: int
    rounded: int
    anew: int
    rounded_error: float
    anew_error: float

    def line(self) -> str:
        """The losses in one line; "" if there are none."""
        if not self.rounded and not self.anew:
            return ""
        pieces = [f"{self.kept} matrices are kept bit for bit"]
        if self.rounded:
            pieces.append(
                f"{self.rounded} keep their codes with scales rounded to f16 ({self.rounded_error:.3%} error)"
            )
        if self.anew:
            pieces.append(f"{self.anew} are encoded anew at 8 bits ({self.anew_error:.3%} error)")
        return ", ".join(pieces)


def keep_recipe(opened: Checkpoint, model: Model) -> Recipe:
    """A recipe with a rule for each matrix of a model, by how its tensor is stored.

    Bundles store down projections by column. Plain numbers do not mind; groups that run along the columns' axis do, so
    such a projection is encoded anew.
    """
    by_name = {}
    for part in _parts(plan_layout(model, load_recipe("f16"))):
        tensor = _tensor(opened, part)
        codec = tensor.codec
        if isinstance(codec, Plain):
            by_name[part.name] = Rule(part.name, codec)
        elif codec is not None and not _sideways(part):
            by_name[part.name] = Rule(part.name, codec, KEEP)
    return Recipe(KEEP, (ANEW,), by_name)


def measure(opened: Checkpoint, layout: Layout, bundle: Path) -> Losses:
    """What a bundle made by `keep_recipe` lost, by the first rows of each matrix that was not kept."""
    weights = BundleWeights(bundle)
    counts = {"kept": 0, "rounded": 0, "anew": 0}
    squares = {kind: np.zeros(2) for kind in counts}
    for plan in layout.matrices:
        for index, part in enumerate(plan.parts):
            if ".predict." in part.name:
                continue
            kind = _kind(opened, part)
            counts[kind] += 1
            if kind != "kept":
                rows = min(rows_per_step(plan), plan.rows)
                want = RowSource(opened, part.source, part.by_column, part.order).rows(0, rows)
                got = weights.form(plan.name, index).dense()[:rows]
                squares[kind] += np.square(got - want).sum(dtype=np.float64), np.square(want).sum(dtype=np.float64)
    errors = {kind: float(np.sqrt(s[0] / s[1])) if s[1] else 0.0 for kind, s in squares.items()}
    return Losses(**counts, rounded_error=errors["rounded"], anew_error=errors["anew"])


def _parts(layout: Layout) -> Iterator[PartPlan]:
    return (part for plan in layout.matrices for part in plan.parts)


def _tensor(opened: Checkpoint, part: PartPlan) -> Tensor:
    stored = opened.tensor(part.source.tensor)
    return stored if part.source.index is None else stored.item(part.source.index)


def _sideways(part: PartPlan) -> bool:
    return part.source.transposed != part.by_column


def _kind(opened: Checkpoint, part: PartPlan) -> str:
    if part.rule.kept:
        return "kept" if _tensor(opened, part).exact else "rounded"
    return "kept" if isinstance(part.codec, Plain) else "anew"
