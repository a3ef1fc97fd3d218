"""Every codec, through every kernel set, computes what its decoded weights say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.codecs import make_codec
from edgekit.conversion import convert
from edgekit.recipe import Recipe, Rule, load_recipe
from edgekit.reference import Reference
from edgekit.runtime.model import kernel_sets
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

# Kernels multiply in f32 whatever the codec, so decoded weights are met as closely as f32 ones.
TOLERANCE = 1e-4
# An f16 cache rounds keys and values to 11 bits.
F16_CACHE = 2e-3

RECIPES = {
    **{f"palette{b}": {"method": "palette", "bits": b} for b in (1, 2, 3, 4, 5, 6, 8)},
    "palette4_whole": {"method": "palette", "bits": 4, "group_size": 0},
    **{f"affine{b}_g{g}": {"method": "affine", "bits": b, "group_size": g} for b in (4, 8) for g in (32, 64, 128)},
    **{f"affine{b}": {"method": "affine", "bits": b, "group_size": 256} for b in (2, 3, 5, 6)},
    **{f"scaled{b}": {"method": "scaled_palette", "bits": b, "group_size": 32} for b in (1, 2, 3, 4, 5, 6, 8)},
    "scaled4_wide": {"method": "scaled_palette", "bits": 4, "group_size": 256},
    "affine4_asymmetric": {"method": "affine", "bits": 4, "group_size": 64, "symmetric": False},
    "affine8_asymmetric": {"method": "affine", "bits": 8, "group_size": 32, "symmetric": False},
    "f16": {"method": "f16"},
    "bf16": {"method": "bf16"},
}


def everywhere(name: str) -> Recipe:
    options = dict(RECIPES[name])
    return Recipe(name, (Rule("*", make_codec(str(options.pop("method")), **options)),))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codecs")
    tiny.make("llama", folder / "even")
    tiny.make("llama_odd_sizes", folder / "odd")
    return folder


@pytest.mark.parametrize("kernels", kernel_sets())
@pytest.mark.parametrize("sizes", ["even", "odd"])
@pytest.mark.parametrize("name", RECIPES)
def test_codec_matches_its_decoded_weights(
    name: str, sizes: str, kernels: str, checkpoints: Path, tmp_path: Path
) -> None:
    convert(checkpoints / sizes, tmp_path / "bundle", everywhere(name))
    ids = np.random.default_rng(0).integers(3, 199, 21).tolist()
    want = Reference(tmp_path / "bundle.edgekit").logits(ids)
    for cache, tolerance in (("f32", TOLERANCE), ("f16", F16_CACHE)):
        with Session(
            tmp_path / "bundle.edgekit", Options(cache_type=cache, kernels=kernels, activations="f32")
        ) as session:
            got = np.concatenate([session.logits(ids[:12])] + [session.logits([i]) for i in ids[12:]])
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("name", sorted(tiny.MAKERS))
def test_reference_agrees_with_the_runtime_on_every_architecture(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "bundle", load_recipe("q8"))
    ids = np.random.default_rng(0).integers(3, 199, 21).tolist()
    want = Reference(tmp_path / "bundle.edgekit").logits(ids)
    with Session(tmp_path / "bundle.edgekit", Options(cache_type="f32", activations="f32")) as session:
        got = session.logits(ids)
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_thresholded_relu_follows_the_reference(tmp_path: Path) -> None:
    tiny.make("llama_relu", tmp_path / "checkpoint")
    config = tmp_path / "checkpoint" / "config.json"
    edited = json.loads(config.read_text()) | {"hidden_act": "threshold", "hidden_act_threshold": 0.05}
    config.write_text(json.dumps(edited))
    convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    reference = Reference(tmp_path / "bundle.edgekit")
    ids = list(range(3, 23))
    want = reference.logits(ids)
    with Session(tmp_path / "bundle.edgekit", Options(cache_type="f32", activations="f32")) as session:
        got = np.concatenate([session.logits(ids[:15]), *(session.logits([i]) for i in ids[15:])])
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()
    for block in reference.model["blocks"]:
        block["threshold"] = 0.0  # and it does make a difference
    assert np.abs(reference.logits(ids) - want).max() > 100 * TOLERANCE * np.abs(want).max()
