"""Bits for each tensor: against all possible choices, and on the demo model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from edgekit.codecs import make_codec
from edgekit.errors import RecipeError
from edgekit.recipe import load_recipe
from edgekit.recipe.allocation import Choice, Tensor, allocate, recipe_text

CODECS = [make_codec("scaled_palette", b) for b in (2, 3, 4)]


def _tensors(seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(5):
        weights, factor = int(rng.integers(50, 200)), float(np.exp(rng.standard_normal()))
        choices = tuple(Choice(c, weights * c.bits, factor * 4.0**-c.bits) for c in CODECS)
        out.append(Tensor(f"t{i}", weights, factor, choices))
    return out


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wanted", [2.0, 2.5, 3.0, 3.7, 4.0])
def test_allocation_is_as_good_as_the_hull_allows(seed: int, wanted: float) -> None:
    tensors = _tensors(seed)
    weights = sum(t.weights for t in tensors)
    chosen = allocate(tensors, wanted)
    assert sum(c.bits for c in chosen.values()) <= wanted * weights
    loss = sum(c.loss for c in chosen.values())
    fitting = [
        sum(c.loss for c in combination)
        for combination in itertools.product(*(t.choices for t in tensors))
        if sum(c.bits for c in combination) <= wanted * weights
    ]
    assert min(fitting) <= loss <= 1.6 * min(fitting)  # what remains is less than one step of one tensor


def test_sensitive_tensors_get_more_bits() -> None:
    tensors = [
        Tensor(f"t{i}", 100, s, tuple(Choice(c, 100 * c.bits, s * 4.0**-c.bits) for c in CODECS))
        for i, s in enumerate((1.0, 100.0, 0.01))
    ]
    chosen = allocate(tensors, 3.0)
    assert [chosen[f"t{i}"].codec.bits for i in range(3)] == [3, 4, 2]


def test_too_small_a_size_is_refused_with_the_least() -> None:
    with pytest.raises(RecipeError, match=r"2\.000 is the least"):
        allocate(_tensors(0), 1.9)


def test_the_recipe_repeats_the_choice(tmp_path: Path) -> None:
    chosen = allocate(_tensors(1), 3.1)
    (tmp_path / "made.toml").write_text(recipe_text("made", chosen))
    recipe = load_recipe(tmp_path / "made.toml")
    assert recipe.name == "made"
    assert {name: recipe.rule_for(name).codec for name in chosen} == {n: c.codec for n, c in chosen.items()}
