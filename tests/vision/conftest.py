"""Models that see, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.conversion import convert
from tests import pictures


@dataclass(frozen=True)
class Sighted:
    """A random model of transformers, its checkpoint, and its bundle in f32."""

    name: str
    model: Any
    checkpoint: Path
    bundle: Path


@pytest.fixture(scope="session")
def sighted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a model by name, unless it was made before."""
    made: dict[str, Sighted] = {}

    def get(name: str) -> Sighted:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = pictures.make(name, folder / "checkpoint")
            bundle = convert(folder / "checkpoint", folder / "bundle", "f32").path
            made[name] = Sighted(name, model, folder / "checkpoint", bundle)
        return made[name]

    return get


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures as files."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / "wide.png", folder / "tall.png"]
    pictures.picture(90, 60).save(paths[0])
    pictures.picture(40, 70, seed=1).save(paths[1])
    return paths
