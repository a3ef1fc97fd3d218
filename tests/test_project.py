"""The project's own rules: lint, types, formats."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("arguments", [["check", "."], ["format", "--check", "."]])
def test_python_is_clean(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_strict(tmp_path: Path) -> None:
    # Mypy knows no editable installs, so it gets the folders as the wheel has them: converters within edgekit.
    package = tmp_path / "edgekit"
    package.mkdir()
    for entry in (ROOT / "edgekit").iterdir():
        (package / entry.name).symlink_to(entry)
    (package / "converters").symlink_to(ROOT / "converters")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cpp_is_formatted() -> None:
    files = [str(p) for p in (ROOT / "runtime").rglob("*") if p.suffix in (".cpp", ".h")]
    command = [str(Path(sys.executable).with_name("clang-format")), "--dry-run", "-Werror", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_committed_models_stay_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name.endswith(".safetensors")]
    assert sum(f.stat().st_size for f in files) <= 12_000_000
