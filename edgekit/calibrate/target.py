"""A recipe for a wanted size: what each tensor is worth is measured or assumed, then bits are allocated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.arch.spec import Model
from edgekit.bundle.disk import write_file
from edgekit.bundle.layout import Arrangement, Layout, plan_layout
from edgekit.bundle.writer import StatisticsOf, Writer
from edgekit.calibrate import activity, sensitivity
from edgekit.calibrate.calibration import Calibration, Note
from edgekit.calibrate.curvature import read_curvature
from edgekit.calibrate.hessians import Hessians
from edgekit.calibrate.sensitivity import Reader
from edgekit.checkpoint import Checkpoint
from edgekit.codecs import make_codec
from edgekit.errors import RecipeError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.jobs import Threads
from edgekit.recipe import Recipe, Rule, load_recipe
from edgekit.recipe.allocation import METHODS, Choice, Tensor, allocate, from_json, to_json
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options

PROBES = (3, 6)  # fewest and most bits around which sensitivity is measured
TOKENS = 2048  # of text that the model reads for each tensor
RAM = 256 << 20
BATCH = 256
TRIES = 12  # of the search for a size in bytes


@dataclass(frozen=True)
class Target:
    """The wanted size: bits per weight of codes, scales and tables, or bytes of the bundle's weights, all included; and
    the method of the codecs to choose among."""

    bits_per_weight: float | None = None
    bytes: int | None = None
    method: str = METHODS[0]

    def key(self) -> str:
        """Changes when the result would."""
        return f"{self.bits_per_weight}:{self.bytes}"


def targeted(
    checkpoint: Checkpoint,
    model: Model,
    target: Target,
    arrangement: Arrangement,
    text: Calibration | None,
    folder: Path,
    curvature: Path,
    key: str,
    threads: int,
    note: Note,
) -> tuple[Recipe, dict[str, Choice]]:
    """A recipe of the target's size, and what was chosen for each tensor.

    Args:
        checkpoint: the source.
        model: its architecture.
        target: the size.
        arrangement: of the bundle to be made, which decides on its padding.
        text: what sensitivity is measured on; None if it is assumed.
        folder: for what is kept meanwhile.
        curvature: where gradients' Hessians are kept, if the text's settings ask for them.
        key: changes when checkpoint or text do.
        threads: tensors encoded at once.
        note: called with what is being done, and how far it is.

    Raises:
        RecipeError: the target is too small for the model.
    """
    layout = plan_layout(model, load_recipe("f16"))
    weights = sum(p.rows * p.cols for m in layout.matrices for p in m.parts)
    bits = target.bits_per_weight or 8 * (target.bytes or 0) / weights
    probe = min(max(round(bits), PROBES[0]), PROBES[1])
    key = f"{key}-{probe}-{target.method}"
    tensors = _tensors(checkpoint, model, layout, probe, target.method, text, folder, curvature, key, threads, note)

    def made(bits: float) -> tuple[Recipe, dict[str, Choice], int]:
        chosen = allocate(tensors, bits)
        rest = Rule("*", make_codec("affine", 8))
        rules = tuple(Rule(tensor, choice.codec) for tensor, choice in chosen.items())
        recipe = Recipe(f"{bits:.3f} bits", (*rules, rest))
        placed = plan_layout(model, recipe, arrangement)
        return recipe, chosen, placed.resident_bytes + placed.flash_bytes

    if target.bits_per_weight is not None:
        recipe, chosen, _ = made(target.bits_per_weight)
        return recipe, chosen
    assert target.bytes is not None
    low, high, best = 0.0, 9.0, None
    for _ in range(TRIES):
        middle = (low + high) / 2
        try:
            recipe, chosen, size = made(middle)
        except RecipeError:
            low = middle
            continue
        if size <= target.bytes:
            low, best = middle, (recipe, chosen)
        else:
            high = middle
    if best is None:
        raise RecipeError(f"the model does not fit into {target.bytes} bytes; ask for more, or take a smaller model")
    return best


def _tensors(
    checkpoint: Checkpoint,
    model: Model,
    layout: Layout,
    bits: int,
    method: str,
    text: Calibration | None,
    folder: Path,
    curvature: Path,
    key: str,
    threads: int,
    note: Note,
) -> list[Tensor]:
    """Tensors with their choices: of an interrupted call with the same key, or weighed now."""
    if text is None:
        return sensitivity.tensors(checkpoint, layout, method, None, lambda d, t: note("weighing tensors", d, t))
    done = folder / f"{key}.json"
    if done.is_file():
        return from_json(done.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plain = folder / "plain.edgekit"
    Writer(checkpoint, model, layout, plain, {}, key).run(Threads(threads), lambda d, t: note("preparing", d, t))
    length = min(text.length, model.max_context)
    tokenizer = Tokenizer(plain / "tokenizer")

    def runs(tokens: int) -> list[list[int]]:
        return activity.token_runs(tokenizer, activity.documents(text.text), tokens, length)

    floor = plan_bundle(plain, Options(context=length)).floor_bytes
    options = Options(ram=max(2 * floor, RAM), context=length, batch=min(BATCH, length), select="all")
    statistics: StatisticsOf
    if text.gradients:
        statistics = read_curvature(plain, runs(text.tokens), curvature, lambda name: np.arange(0), note).of
    else:
        statistics = Hessians(plain, layout, runs(text.tokens), options, lambda name: np.arange(0), always=True).of
    tokens = min(TOKENS, max(64, sensitivity.LOGITS // (4 * model.vocab_size)))
    reader = Reader(plain, runs(tokens), options, statistics, bits)
    made = sensitivity.tensors(checkpoint, layout, method, reader, lambda d, t: note("weighing tensors", d, t))
    shutil.rmtree(plain)
    write_file(done, to_json(made).encode())
    return made
