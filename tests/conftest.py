"""Shared places and helpers of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
DEMO = ROOT / "examples" / "demo_model" / "checkpoint"  # committed: tests that need any trained model use it


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real checkpoints and text; tests that need it are skipped without it."""
    if not DATA.is_dir():
        pytest.skip(f"no {DATA.name} folder beside the project: real checkpoints and text are not committed")
    return DATA


@pytest.fixture(scope="session")
def stories(data: Path) -> Path:
    """stories260K, a trained Llama with 260,032 parameters."""
    return data / "models" / "stories260K"
