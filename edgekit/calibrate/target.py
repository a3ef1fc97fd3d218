"""A recipe for a wanted size or speed: what each tensor is worth is measured or assumed, then bits are allocated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arch.spec import Model
from edgekit.bundle.disk import write_file
from edgekit.bundle.layout import Arrangement, Layout, plan_layout
from edgekit.bundle.writer import StatisticsOf, Writer
from edgekit.calibrate import activity, sensitivity
from edgekit.calibrate.calibration import Calibration, Note
from edgekit.calibrate.curvature import read_curvature
from edgekit.calibrate.fitting import Fitted, fit_bits, fit_bytes, fit_speed, predictor
from edgekit.calibrate.hessians import Hessians
from edgekit.calibrate.sensitivity import Reader
from edgekit.checkpoint import Checkpoint
from edgekit.generate.tokenizer import Tokenizer
from edgekit.jobs import Threads
from edgekit.recipe import Recipe, load_recipe
from edgekit.recipe.allocation import METHODS, Tensor, from_json, to_json
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options

PROBES = (3, 6)  # fewest and most bits around which sensitivity is measured
TOKENS = 2048  # of text that the model reads for each tensor
RAM = 256 << 20
BATCH = 256
TYPICAL = 4  # bits around which sensitivity is measured, where speed is what is wanted


@dataclass(frozen=True)
class Target:
    """What is wanted, one of three.

    Attributes:
        bits_per_weight: of codes, scales and tables.
        bytes: of the bundle's weights, all included.
        method: of the codecs to choose among.
        tokens_per_second: at least, by the profile of this device.
        ram: with a speed: the budget that it is wanted within, in bytes; None for all that the model takes.
    """

    bits_per_weight: float | None = None
    bytes: int | None = None
    method: str = METHODS[0]
    tokens_per_second: float | None = None
    ram: int | None = None


def targeted(
    checkpoint: Checkpoint,
    model: Model,
    target: Target,
    arrangement: Arrangement,
    text: Calibration | None,
    folder: Path,
    curvature: Path,
    key: str,
    provenance: dict[str, Any],
    threads: int,
    note: Note,
) -> Fitted:
    """A recipe that meets the target, and what was chosen for each tensor.

    Args:
        checkpoint: the source.
        model: its architecture.
        target: the size or speed.
        arrangement: of the bundle to be made, which decides on its padding.
        text: what sensitivity is measured on; None if it is assumed.
        folder: for what is kept meanwhile.
        curvature: where gradients' Hessians are kept, if the text's settings ask for them.
        key: changes when checkpoint or text do.
        provenance: of the bundle to be made.
        threads: tensors encoded at once.
        note: called with what is being done, and how far it is.

    Raises:
        RecipeError: the target cannot be met with this model.
        RuntimeFailure: a speed is wanted, and this device was not measured.
    """

    def placed(recipe: Recipe) -> Layout:
        return plan_layout(model, recipe, arrangement)

    predicted = None
    if target.tokens_per_second is not None:
        predicted = predictor(checkpoint, model, placed, provenance)
    layout = plan_layout(model, load_recipe("f16"))
    weights = sum(p.rows * p.cols for m in layout.matrices for p in m.parts)
    bits = target.bits_per_weight or (8 * target.bytes / weights if target.bytes else TYPICAL)
    probe = min(max(round(bits), PROBES[0]), PROBES[1])
    key = f"{key}-{probe}-{target.method}"
    tensors = _tensors(checkpoint, model, layout, probe, target.method, text, folder, curvature, key, threads, note)
    if target.tokens_per_second is not None and predicted is not None:
        return fit_speed(tensors, target.tokens_per_second, target.ram, predicted)
    if target.bits_per_weight is not None:
        return fit_bits(tensors, target.bits_per_weight)
    assert target.bytes is not None
    return fit_bytes(tensors, target.bytes, placed)


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
