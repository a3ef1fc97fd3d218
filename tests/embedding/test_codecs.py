"""Encoders in every codec: the runtime computes what the reference computes, and how far that is from the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.conversion import convert
from edgekit.recipe import load_recipe
from edgekit.recipe.presets import PRESETS
from edgekit.reference import Reference
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.model import kernel_sets
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import encoders

TOLERANCE = 2e-4
RNG = np.random.default_rng(11)
TEXTS = [TokenText(tuple(RNG.integers(3, 99, n).tolist())) for n in (24, 9)]
# Least cosine to the vector of the original, of random weights with 64 columns: trained models lose less.
COSINES = {"q8": 0.9999, "scaled8": 0.9999, "q4": 0.99, "scaled4": 0.99, "trellis4": 0.99, "palette4": 0.99}


@pytest.fixture(scope="module", params=["bert", "modernbert"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A checkpoint and the mean hidden states of the texts."""
    folder = tmp_path_factory.mktemp("codecs") / "checkpoint"
    model = encoders.make(request.param, folder)
    with torch.no_grad():
        states = [model(torch.tensor([t.ids])).last_hidden_state[0].mean(0).numpy() for t in TEXTS]
    return folder, np.stack(states)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the rows of a and b."""
    out: np.ndarray = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return out


@pytest.mark.parametrize("recipe", sorted(PRESETS))
def test_the_runtime_agrees_with_the_reference(recipe: str, original: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path = convert(original[0], tmp_path / "bundle", load_recipe(recipe)).path
    reference = Reference(path)
    want = np.stack([reference.vector(t.ids) for t in TEXTS])
    for kernels in kernel_sets():
        with Session(path, Options(kernels=kernels, activations="f32")) as session:
            got = session.embed(TEXTS).vectors
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max(), kernels
    if recipe in COSINES:
        assert cosines(want, original[1]).min() >= COSINES[recipe]


@pytest.mark.parametrize("recipe", ["q8", "scaled4"])
def test_activations_of_8_bits_change_little(recipe: str, original: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path = convert(original[0], tmp_path / "bundle", load_recipe(recipe)).path
    with Session(path, Options(activations="f32")) as session:
        want = session.embed(TEXTS).vectors
    with Session(path, Options(activations="int8")) as session:
        assert cosines(session.embed(TEXTS).vectors, want).min() >= 0.999
