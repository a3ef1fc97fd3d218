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
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import pictures


def rows_of(session: Session, pixels: np.ndarray, told: dict[str, Any]) -> np.ndarray:
    side = pixels.shape[1] // told["patch"]
    patches = patches_of(pixels, told["patch"], told["merge"])
    return session.encode(patches, positions_of(side, side, told["grid"], told["merge"]))


@pytest.mark.parametrize("name", list(pictures.MAKERS))
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
