"""Encoders of pictures give what transformers' give, in any budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.bundle import manifest
from edgekit.conversion import convert
from edgekit.pictures.preparing import patches_of, positions_of
from edgekit.reference import Reference
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import pictures


def rows_of(session: Session, pixels: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    side = pixels.shape[1] // told["patch"]
    patches = patches_of(pixels, told["patch"], told["merge"])
    return session.encode(patches, positions_of(side, side, told["grid"], told["merge"]))


@pytest.mark.parametrize("name", [name for name in pictures.MAKERS if name != "lfm2_vl"])  # test_seeing.py has it
def test_rows_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = pictures.make(name, tmp_path / "checkpoint")
    done = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    assert not done.warnings
    told = manifest.read(done.path).data["model"]["pictures"]
    side = told["grid"] * told["patch"]
    pixels = np.random.default_rng(3).standard_normal((2, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        given = torch.from_numpy(pixels) if name == "gemma3" else torch.from_numpy(pixels)[None]
        want = model.model.get_image_features(given).pooler_output
    want = torch.cat(list(want)).numpy().reshape(2, told["rows"], -1)
    with Session(done.path / "vision") as session:
        got = [rows_of(session, p, told) for p in pixels]
    assert np.abs(np.stack(got) - want).max() <= 1e-4 * np.abs(want).max()
    plan = plan_bundle(done.path / "vision", Options())
    for more in (0, 20_000):
        ram = plan.floor_bytes + more
        with Session(done.path / "vision", Options(ram=ram)) as session:
            again = [rows_of(session, p, told) for p in pixels]
            assert session.stats.peak_memory_bytes <= ram
        assert np.array_equal(np.stack(again), np.stack(got))


@pytest.mark.parametrize("name", ["idefics3", "gemma3"])
@pytest.mark.parametrize("recipe", ["f16", "q8", "q4", "palette4"])
@pytest.mark.parametrize("kernels", ["", "portable"])
def test_rows_in_codecs_are_those_of_the_reference(
    name: str, recipe: str, kernels: str, sighted: Any, tmp_path: Path
) -> None:
    """The encoder in 16 or 8 bits, the decoder in what the recipe says: each against NumPy on the decoded weights."""
    bundle = convert(sighted(name).checkpoint, tmp_path / "bundle", recipe).path
    told = manifest.read(bundle).data["model"]["pictures"]
    side = told["grid"] * told["patch"]
    pixels = np.random.default_rng(3).standard_normal((3, side, side)).astype(np.float32)
    reference = Reference(bundle / "vision")
    codecs = {part["codec"] for m in reference.weights.data["matrices"] for part in m["parts"]}
    assert codecs == ({"f16"} if recipe == "f16" else {"f16", "affine"})
    positions = positions_of(told["grid"], told["grid"], told["grid"], told["merge"])
    want = reference.picture(patches_of(pixels, told["patch"], told["merge"]).astype(np.float64), positions.tolist())
    options = Options(activations="f32", kernels=kernels or None, cache_type="f32")
    with Session(bundle / "vision", options) as session:
        got = rows_of(session, pixels, told)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    ids = [1, 5, *[told["token"]] * len(got), 9, 60, 61]
    logits = Reference(bundle).logits(ids, given={2: got.astype(np.float64)}, both_ways=told["both_ways"])
    with Session(bundle, Options(activations="f32", kernels=kernels or None, cache_type="f32")) as session:
        rows = [session.logits(ids[:2]), session.embedding_logits(got, ids[2:-3], told["both_ways"])]
        rows.append(session.logits(ids[-3:]))
    assert np.abs(np.concatenate(rows) - logits).max() <= 1e-4 * np.abs(logits).max()


def test_a_recipe_may_have_rules_for_the_encoder(sighted: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        """
        [[tensors]]
        match = "vision.layers.*.ffn.*"
        method = "palette"
        bits = 4

        [[tensors]]
        match = "*"
        method = "f16"
        """
    )
    bundle = convert(sighted("idefics3").checkpoint, tmp_path / "bundle", tmp_path / "mine.toml").path
    inner, outer = (manifest.read(p).data["matrices"] for p in (bundle / "vision", bundle))
    assert {p["codec"] for m in inner if ".ffn" in m["name"] for p in m["parts"]} == {"palette"}
    assert {p["codec"] for m in inner if ".ffn" not in m["name"] for p in m["parts"]} == {"f16"}
    assert {p["codec"] for m in outer for p in m["parts"]} == {"f16"}
