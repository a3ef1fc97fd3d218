"""Shared places and helpers of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Before NumPy and PyTorch are imported, and for processes that tests start: on small matrices a second thread gains
# nothing, and threads that spin for a core which another worker of the tests has cost much.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
DEMO = ROOT / "examples" / "demo_model" / "checkpoint"  # committed: tests that need any trained model use it


COMPILING = {"test_native", "test_targets", "test_c_example", "test_wheel"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that compile take longest and come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.stem not in COMPILING)


def _preloaded(source: str, folder: Path) -> Path:
    """A library for LD_PRELOAD, made of a file of tests/."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and LD_PRELOAD")
    out = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", out, ROOT / "tests" / source, "-ldl"], check=True)
    return out


@pytest.fixture(scope="session")
def write_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for LD_PRELOAD that makes writes and renames fail (tests/faults_write.c)."""
    return _preloaded("faults_write.c", tmp_path_factory.mktemp("write-faults"))


@pytest.fixture(scope="session")
def read_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for LD_PRELOAD that makes reads fail, come short or late (tests/runtime/faults.c)."""
    return _preloaded("runtime/faults.c", tmp_path_factory.mktemp("read-faults"))


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
