"""The runtime computes with trellis bundles what Python decodes from them, with every kernel set and window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.codecs import make_codec
from edgekit.conversion import convert
from edgekit.recipe import Recipe, Rule
from edgekit.reference import Reference
from edgekit.runtime.model import kernel_sets
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

TOLERANCE = 1e-4


def recipe(bits: int, state_bits: int = 12) -> Recipe:
    return Recipe("trellis", (Rule("*", make_codec("trellis", bits, state_bits=state_bits)),))


# (model, bits, bits of state)
CASES = [("llama", 2, 12), ("llama", 4, 12), ("llama_odd_sizes", 3, 13)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trellis")


def bundle_of(folder: Path, model: str, bits: int, state_bits: int, layout: str = "auto") -> Path:
    """A bundle of a tiny model, made once."""
    bundle = folder / f"{model}{bits}.edgekit"
    if not bundle.exists():
        tiny.make(model, folder / f"{model}{bits}")
        convert(folder / f"{model}{bits}", bundle.with_suffix(""), recipe(bits, state_bits), layout=layout)
    return bundle


@pytest.mark.parametrize("kernels", kernel_sets())
@pytest.mark.parametrize(("model", "bits", "state_bits"), CASES)
def test_trellis_bundles_match_their_decoded_weights(
    model: str, bits: int, state_bits: int, kernels: str, folder: Path
) -> None:
    bundle = bundle_of(folder, model, bits, state_bits)
    ids = np.random.default_rng(0).integers(3, 199, 21).tolist()
    want = Reference(bundle).logits(ids)
    with Session(bundle, Options(cache_type="f32", kernels=kernels)) as session:
        got = np.concatenate([session.logits(ids[:12])] + [session.logits([i]) for i in ids[12:]])
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_windows_of_trellis_neurons_change_nothing(folder: Path) -> None:
    """Only the chosen neurons are read, and what they add up to is the same for every window."""
    bundle = bundle_of(folder, "opt", 3, 12, "split")
    ids = np.random.default_rng(1).integers(3, 199, 24).tolist()
    found = []
    for window in (1, 3, 8):
        with Session(bundle, Options(select="exact", window=window)) as session:
            found.append(np.concatenate([session.logits([i]) for i in ids]))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    with Session(bundle, Options(select="all")) as session:
        dense = np.concatenate([session.logits([i]) for i in ids])
    np.testing.assert_allclose(found[0], dense, atol=1e-4 * np.abs(dense).max())
