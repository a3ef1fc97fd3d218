"""Bits for a wanted size or speed: allocations are tried until one fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgekit.arch.spec import Model
from edgekit.bundle.layout import Layout
from edgekit.bundle.skeleton import write_skeleton
from edgekit.checkpoint import Checkpoint
from edgekit.codecs import make_codec
from edgekit.errors import BudgetError, RecipeError
from edgekit.plan import device
from edgekit.plan.corrections import load_corrections
from edgekit.plan.predict import predict
from edgekit.recipe import Recipe, Rule
from edgekit.recipe.allocation import WIDTHS, Choice, Tensor, allocate
from edgekit.runtime.values import Options

TRIES = 12  # of the search for a size in bytes
STEP = 0.125  # bits per weight between the allocations whose speed is predicted


@dataclass(frozen=True)
class Fitted:
    """An allocation that meets a target.

    Attributes:
        recipe: with a rule for each tensor.
        tensors: what was chosen among.
        choices: of each tensor.
        tokens_per_second: that the profile of this device promises; None if speed was not the target.
    """

    recipe: Recipe
    tensors: tuple[Tensor, ...]
    choices: dict[str, Choice]
    tokens_per_second: float | None = None

    @property
    def loss(self) -> float:
        """That is expected of all tensors."""
        return sum(choice.loss for choice in self.choices.values())


def fit_bits(tensors: Sequence[Tensor], bits: float) -> Fitted:
    """At most so many bits per weight on average.

    Raises:
        RecipeError: too few for the model.
    """
    chosen = allocate(tensors, bits)
    rules = tuple(Rule(tensor, choice.codec) for tensor, choice in chosen.items())
    return Fitted(Recipe(f"{bits:.3f} bits", (*rules, Rule("*", make_codec("affine", 8)))), tuple(tensors), chosen)


def fit_bytes(tensors: Sequence[Tensor], size: int, placed: Callable[[Recipe], Layout]) -> Fitted:
    """The closest model in at most so many bytes.

    Args:
        tensors: with their choices.
        size: bytes of the bundle's weights, all included.
        placed: the layout that a recipe gives.

    Raises:
        RecipeError: too few for the model.
    """
    low, high, best = 0.0, float(max(WIDTHS)) + 1, None
    for _ in range(TRIES):
        middle = (low + high) / 2
        try:
            made = fit_bits(tensors, middle)
        except RecipeError:
            low = middle
            continue
        layout = placed(made.recipe)
        if layout.resident_bytes + layout.flash_bytes <= size:
            low, best = middle, made
        else:
            high = middle
    if best is None:
        raise RecipeError(f"the model does not fit into {size} bytes; ask for more, or take a smaller model")
    return best


def fit_speed(
    tensors: Sequence[Tensor],
    wanted: float,
    ram: int | None,
    predicted: Callable[[Recipe, int | None], float],
) -> Fitted:
    """The closest model whose predicted speed is at least what is wanted.

    More bits are not always slower, as each width has kernels of its own, so that all averages are tried.

    Args:
        tensors: with their choices.
        wanted: tokens per second.
        ram: bytes of the budget; None for all that the model takes.
        predicted: the speed that a recipe gives within a budget (`predictor`).

    Raises:
        RecipeError: no allocation is so fast.
    """
    best: Fitted | None = None
    fastest, reason = 0.0, ""
    for made in _averages(tensors):
        try:
            speed = predicted(made.recipe, ram)
        except BudgetError as error:
            reason = reason or str(error)
            continue
        fastest = max(fastest, speed)
        if speed >= wanted and (best is None or made.loss < best.loss):
            best = Fitted(made.recipe, made.tensors, made.choices, speed)
    if best is not None:
        return best
    if not fastest:
        raise RecipeError(reason)
    within = "" if ram is None else f" within {ram / 2**20:.1f} MiB"
    raise RecipeError(
        f"no bits give {wanted:g} tok/s{within} on this device: {fastest:.1f} is expected of the fastest; "
        "ask for less, raise --ram, or take a smaller model"
    )


def _averages(tensors: Sequence[Tensor]) -> Iterator[Fitted]:
    """Allocations of more and more bits, each once."""
    before: dict[str, Choice] = {}
    for i in range(round(max(WIDTHS) / STEP) + round(1 / STEP)):
        try:
            made = fit_bits(tensors, 1 + (i + 1) * STEP)
        except RecipeError:
            continue
        if made.choices != before:
            yield made
        before = made.choices


def predictor(
    checkpoint: Checkpoint, model: Model, placed: Callable[[Recipe], Layout], provenance: dict[str, Any]
) -> Callable[[Recipe, int | None], float]:
    """What gives the tokens per second that the bundle of a recipe would write within a budget.

    Args:
        checkpoint: the source.
        model: its architecture.
        placed: the layout that a recipe gives.
        provenance: of the bundle.

    Raises:
        RuntimeFailure: this device was not measured.
    """
    path = device.default_path()
    profile = device.load(path)
    corrections = load_corrections(path, profile.made)

    def predicted(recipe: Recipe, ram: int | None) -> float:
        with TemporaryDirectory(prefix="edgekit-plan-") as folder:
            bundle = Path(folder) / "skeleton.edgekit"
            about = {**provenance, "recipe": recipe.name, "rules": recipe.table()}
            write_skeleton(bundle, model, placed(recipe), about, checkpoint.files)
            return predict(bundle, Options(ram=ram), profile, corrections).tokens_per_second

    return predicted
