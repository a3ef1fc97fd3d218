"""The runtime's fuzz targets (runtime/fuzz) on their seeds, the corpus, and some mutations: seconds, not for ever."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.fuzz import seeds
from tests.native_build import build

CORPUS = Path(__file__).parent / "corpus"
RUNS = {"json": 20_000, "manifest": 5_000, "bundle": 1_000, "session": 500, "adapter": 500}


@pytest.fixture(scope="module")
def targets() -> Path:
    return build("address", target="fuzz_targets")


@pytest.fixture(scope="module")
def made(targets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    seeds.make(folder, targets)
    return folder


def replay(program: Path, target: str, inputs: list[Path], keep: Path, bundle: Path | None = None) -> int:
    """Runs a target on files and on mutations of them; returns how many executions it made."""
    environment = {**os.environ, "EDGEKIT_FUZZ_INPUT": str(keep)}
    if bundle is not None:
        environment["EDGEKIT_FUZZ_BUNDLE"] = str(bundle)
    command = [program / f"fuzz_{target}", f"-runs={RUNS[target]}", "-seed=1", *inputs]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\nthe input is in {keep}"
    return int(done.stdout.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["json", "manifest"])
def test_texts_are_refused_or_read(target: str, targets: Path, made: Path, tmp_path: Path) -> None:
    inputs = [made / "seeds" / target, CORPUS / target]
    files = sum(1 for folder in inputs for _ in folder.iterdir())
    assert replay(targets, target, inputs, tmp_path / "input") == RUNS[target] + files


@pytest.mark.slow
@pytest.mark.parametrize("target", seeds.ON_BUNDLES)
@pytest.mark.parametrize("name", seeds.BUNDLES)
def test_bundles_and_sessions_are_refused_or_used(
    target: str, name: str, targets: Path, made: Path, tmp_path: Path
) -> None:
    inputs = made / "seeds" / target / name
    bundle = made / "bundles" / name
    runs = replay(targets, target, [inputs], tmp_path / "input", bundle)
    assert runs == RUNS[target] + len(list(inputs.iterdir()))


@pytest.mark.slow
def test_a_target_that_finds_something_fails_and_keeps_the_input(targets: Path, made: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"")
    environment = {**os.environ, "EDGEKIT_FUZZ_INPUT": str(tmp_path / "kept"), "EDGEKIT_FUZZ_BUNDLE": str(tmp_path)}
    done = subprocess.run([targets / "fuzz_session", bad], capture_output=True, text=True, env=environment)
    assert done.returncode != 0  # there is no bundle, which this target demands
    assert "does not hold" in done.stderr
    assert (tmp_path / "kept").exists()
