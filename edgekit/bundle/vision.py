"""The bundle inside a bundle: an encoder of pictures, with a manifest, units and checksums of its own.

It is opened like any other, under a budget, and closed when pictures are read; the decoder's bundle lists its files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.arch.spec import Pictures, Vision
from edgekit.bundle.layout import Layout, plan_layout
from edgekit.bundle.writer import Writer
from edgekit.checkpoint import Checkpoint
from edgekit.codecs import make_codec
from edgekit.jobs import Executor
from edgekit.recipe import Recipe, Rule

PREFIX = "vision."  # of names, in the patterns of a recipe
HALF = Rule("*", make_codec("f16"))
EIGHT = Rule("*", make_codec("affine", 8, group_size=32))
ENDS = ("embedding", "position")  # small, and everything else is made of them


@dataclass(frozen=True)
class VisionBundle:
    """What is to be written; `key` tells one piece of work from another."""

    checkpoint: Checkpoint
    vision: Vision
    recipe: Recipe
    provenance: dict[str, Any]
    key: str

    @property
    def pictures(self) -> Pictures:
        """How pictures are prepared, for the decoder's manifest."""
        return self.vision.pictures

    @property
    def layout(self) -> Layout:
        """Where everything lies."""
        return plan_layout(self.vision.encoder, vision_recipe(self.recipe))

    def write(self, folder: Path, executor: Executor) -> None:
        """Writes it; see `Writer.run`."""
        writer = Writer(self.checkpoint, self.vision.encoder, self.layout, folder, self.provenance, self.key, files=())
        writer.run(executor, lambda done, total: None)


def vision_recipe(recipe: Recipe) -> Recipe:
    """What a recipe makes of an encoder of pictures: its rules for names that begin with "vision." first. The others
    are for texts: weights get what they get there, but no less than 8 bits, and patches and positions 16."""
    own = tuple(replace(r, pattern=r.pattern[len(PREFIX) :]) for r in recipe.rules if r.pattern.startswith(PREFIX))
    last = recipe.rules[-1] if recipe.rules else EIGHT
    plain = last.pattern == "*" and last.codec.name in ("f32", "f16", "bf16")
    rest = replace(last, pattern="*") if plain else EIGHT
    ends = tuple(replace(rest if plain else HALF, pattern=name) for name in ENDS)
    return Recipe(recipe.name, (*own, *ends, rest))
