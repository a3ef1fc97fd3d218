"""checkpoint -> architecture -> recipe -> codecs, tensor by tensor -> bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.arch.checkpoints import describe_checkpoint, vision_of
from edgekit.arch.vision import check_sight
from edgekit.bundle.checksum import hashed
from edgekit.bundle.keep import Losses, keep_recipe, measure
from edgekit.bundle.layout import LAYOUTS, MANIFEST, Arrangement, plan_layout
from edgekit.bundle.vision import VisionBundle
from edgekit.bundle.workspace import check_apart, check_replaceable, output_path, workspace
from edgekit.bundle.writer import Progress, Writer
from edgekit.calibrate.calibration import Calibration, Note, apply, extend
from edgekit.calibrate.curvature import check_torch
from edgekit.calibrate.fitting import Fitted
from edgekit.calibrate.learned import Learned
from edgekit.calibrate.samples import with_samples
from edgekit.calibrate.target import Target, targeted
from edgekit.checkpoint import locate, open_checkpoint
from edgekit.checkpoint.gguf import SUFFIX
from edgekit.checkpoint.lora import with_adapter
from edgekit.cores import usable_cores
from edgekit.errors import ConvertError
from edgekit.generate.tokenizer import missing_tokenizer
from edgekit.jobs import executor_for
from edgekit.recipe import Recipe, load_recipe
from edgekit.recipe.allocation import Allocated, allocation_of, recipe_text
from edgekit.recipe.recipe import KEEP
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
        warnings: lines about keys and tensors of the checkpoint that are not used.
        made_recipe: the recipe that was made for a target, as TOML; None if it was given.
        allocation: with a target, what each tensor got.
        expected_tokens_per_second: with a target speed, what this device's profile promises.
        losses: with the recipe "keep", what was kept bit for bit and what was not.
    """

    path: Path
    recipe: str
    parameters: int
    bundle_bytes: int
    bits_per_weight: float
    seconds: float
    resumed: int
    restarted: bool
    warnings: tuple[str, ...] = ()
    made_recipe: str | None = None
    allocation: tuple[Allocated, ...] = ()
    expected_tokens_per_second: float | None = None
    losses: Losses | None = None


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
    cluster: str | None = None,
    overwrite: bool = False,
    layout: str = "auto",
    unit_size: int | None = None,
    target: Target | None = None,
    calibration: Calibration | None = None,
    lora: str | Path | None = None,
    text_only: bool = False,
    progress: Progress | None = None,
    note: Note | None = None,
    warn: Callable[[str], None] | None = None,
) -> Conversion:
    """Converts a checkpoint to a bundle.

    Args:
        checkpoint: a folder, a GGUF file, or a hub id.
        out: the bundle to make; ".edgekit" is appended when it has no such suffix.
        recipe: a preset's name, a TOML file or a `Recipe`; "scaled4" if nothing is said, and "keep" for a
            GGUF file: what is quantized stays as it is where one of our codecs holds it.
        method: with `bits` and `group_size`, a recipe in three words.
        revision: of a hub id.
        threads: matrices encoded at once; all cores if not given.
        cluster: address of a Dask scheduler whose workers encode the matrices, as in tcp://HOST:8786.
        overwrite: replace an existing bundle.
        layout: "bundle" (all of a neuron side by side), "split" (what decides whether it is active apart
            from the rest, for exact and threshold selection) or "auto".
        unit_size: bytes that feed-forward units aim at; chosen by the layout if not given.
        target: instead of a recipe: a size or speed, into which the bits of each tensor are fitted.
        calibration: learn predictors, cuts and an order of neurons from text first.
        lora: a folder with a LoRA adapter of PEFT, which is merged into the weights.
        text_only: leave out what the model sees pictures with.
        progress: called with (weights done, weights in all).
        note: called with (what a calibration is doing, done, of all).
        warn: called before the work begins, with the lines of `Conversion.warnings` and of a missing tokenizer.

    Raises:
        EdgekitError: one line that says what is wrong and what to do.
    """
    begin = time.monotonic()
    if layout not in LAYOUTS:
        raise ConvertError(f"layout '{layout}' is not one of {', '.join(LAYOUTS)}")
    if target is not None and (recipe, method, bits, group_size) != (None,) * 4:
        raise ConvertError("give either a target, with a method at most, or a recipe, not both")
    named = target is not None or (recipe, method, bits, group_size) != (None,) * 4
    chosen = load_recipe(recipe if named or not str(checkpoint).endswith(SUFFIX) else KEEP, method, bits, group_size)
    if calibration is not None:
        chosen = chosen.with_text()
        _check_gradients(calibration, chosen, target)
    elif chosen.needs_text():
        raise ConvertError(f"recipe '{chosen.name}' has a solver that learns from text; add --calibration TEXT")
    bundle = bundle_path(out)
    place = output_path(bundle)
    _check_place(place, overwrite)
    source = locate(str(checkpoint), revision)
    check_apart(source.path, place)
    opened = open_checkpoint(source.path if cluster is None else source.path.absolute())  # workers stand elsewhere
    if lora is not None:
        opened = with_adapter(opened, Path(lora))
    vision = None if text_only else vision_of(opened)
    model, warnings = describe_checkpoint(opened, vision)
    if vision is not None:
        check_sight(vision, model)
    if target is not None and model.output != "logits":
        raise ConvertError("bits are fitted into a size by what they change of a text that is written; give a recipe")
    if calibration is not None and calibration.gradients and model.output != "logits":
        raise ConvertError("--gradients: they are of a text that is written, which this model does not; leave it out")
    keeps = chosen.name == KEEP and not chosen.rules
    if keeps:
        chosen = keep_recipe(opened, model)
    missing = missing_tokenizer(str(checkpoint), opened)
    if missing and calibration is not None:
        raise ConvertError(missing)
    from edgekit.generate.chat_form import chat_files  # brings jinja2, which takes long to import

    chat, unformed = chat_files(opened, model)
    if warn is not None:  # a bundle without a tokenizer can be measured and exported all the same
        for line in (missing, *warnings, unformed):
            if line:
                warn(line)
    workers = threads or usable_cores()
    provenance: dict[str, Any] = {
        "edgekit": __version__,
        "source": source.name,
        "revision": source.revision,
        "source_sha256": opened.identity,
        "layout": layout,
        **({"lora": Path(lora).resolve().name} if lora is not None else {}),
        "tensors": {name: list(t.shape) for name, t in opened.tensors.items()},  # exporters name them again
    }
    report = note or (lambda what, done, total: None)
    arrangement = Arrangement(layout, unit_size)
    fitted: Fitted | None = None
    learned: Learned | None = None
    with executor_for(workers, cluster) as executor, workspace(place, resumes=True) as space:
        _check_place(place, overwrite)  # another process may have made it since
        if calibration is not None and calibration.samples:
            key = hashed(f"{__version__}:{opened.fingerprint}")
            calibration = with_samples(calibration, opened, model, space.folder / "samples", key, workers, report)
        text_key = hashed(f"{__version__}:{opened.fingerprint}:{calibration.key() if calibration else None}")
        curvature = space.folder / f"curvature-{text_key}"
        if target is not None:
            folder = space.folder / "sensitivity"
            fitted = targeted(
                opened,
                model,
                target,
                arrangement,
                calibration,
                folder,
                curvature,
                text_key,
                provenance,
                workers,
                report,
            )
            chosen = fitted.recipe.with_text() if calibration is not None else fitted.recipe
        provenance |= {"recipe": chosen.name, "rules": chosen.table()}
        key_text = f"{__version__}:{opened.fingerprint}:{chosen.fingerprint()}:{layout}:{unit_size}"
        if calibration is not None:
            text = ["written by the model"] if calibration.samples else [p.name for p in calibration.text]
            provenance["calibration"] = {"text": text, "tokens": calibration.tokens}
            key_text += calibration.key()
            key, folder = hashed(key_text), space.folder / "calibration"
            learned = Learned(opened, model, chosen, folder, calibration, key, curvature)
            file = learned.read(workers, report)
            opened, model = extend(opened, file), apply(model, file)
        placed = plan_layout(model, chosen, arrangement)
        statistics = learned.statistics(opened) if learned is not None else None
        inner = None
        if vision is not None:
            told = {k: v for k, v in provenance.items() if k != "tensors"}
            inner = VisionBundle(opened, vision, chosen, told, hashed(key_text + "vision"))
        key_text += "vision" if inner is not None else ""
        writer = Writer(opened, model, placed, space.output, provenance, hashed(key_text), statistics, chat, inner)
        writer.run(executor, progress or (lambda done, total: None))
        losses = measure(opened, placed, space.output) if keeps else None
        space.place()
    layouts = [placed] if inner is None else [placed, inner.layout]
    parameters = sum(p.rows * p.cols for plan in layouts for m in plan.matrices for p in m.parts)
    size = sum(plan.resident_bytes + plan.flash_bytes for plan in layouts)
    return Conversion(
        bundle,
        chosen.name,
        parameters,
        size,
        size * 8 / parameters,
        time.monotonic() - begin,
        writer.resumed,
        writer.restarted,
        warnings,
        None if fitted is None else recipe_text(chosen.name, fitted.choices),
        () if fitted is None else allocation_of(fitted.tensors, fitted.choices),
        None if fitted is None else fitted.tokens_per_second,
        losses,
    )


def bundle_path(out: str | Path) -> Path:
    """`out` with the suffix that bundles have.

    Raises:
        ConvertError: `out` has no name, as "." and "/".
    """
    path = Path(out)
    if path.name in ("", ".."):
        raise ConvertError(f"output '{out}' is a folder and no name for something new; add a name to it")
    return path if path.suffix == ".edgekit" else path.with_name(path.name + ".edgekit")


def _check_gradients(calibration: Calibration, recipe: Recipe, target: Target | None) -> None:
    """Refuses gradients that cannot be had, or of which nobody would learn."""
    if not calibration.gradients:
        return
    check_torch()
    if target is None and not recipe.needs_text():
        raise ConvertError(f"--gradients: no solver of recipe '{recipe.name}' learns from them; leave it out")


def _check_place(place: Path, overwrite: bool) -> None:
    """Refuses to replace anything but a bundle, and that only if asked for."""
    check_replaceable(place, overwrite, "a bundle", _is_bundle)


def _is_bundle(path: Path) -> bool:
    """Whether a folder's manifest begins like one of ours; it may be damaged otherwise."""
    begin = b'{"checksum":"'
    try:
        with (path / MANIFEST).open("rb") as file:
            return file.read(len(begin)) == begin
    except OSError:
        return False
