"""A killed export or relufy leaves what was there, and the next call ends as if there had been no kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.conversion import convert
from edgekit.verify import verify
from tests.conftest import DEMO, ROOT

TRAINING = ("--steps", "4", "--batch-size", "2", "--max-tokens", "32", "--device", "cpu", "-q")


def kill_when(command: list[str], ready: Callable[[], bool]) -> bool:
    """Starts edgekit and kills it once `ready()` holds; False if it ended before."""
    process = subprocess.Popen([sys.executable, "-m", "edgekit", *command], cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not ready():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def run(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "edgekit", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("file", ["edgekit.lock", "output/model.onnx"])
def test_a_killed_export_leaves_the_old_artifact(file: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx_ir")
    bundle = convert(DEMO, tmp_path / "m", "q4").path
    artifact, partial = bundle / "artifacts" / "onnx", bundle / "artifacts" / "onnx.partial"
    run(["export", str(bundle), "--to", "onnx"])
    before = contents(artifact)
    again = ["export", str(bundle), "--to", "onnx", "--overwrite", "--max-context-length", "64"]
    assert kill_when(again, lambda: (partial / file).exists())
    assert contents(artifact) == before
    run(again)
    assert json.loads((artifact / "edgekit.json").read_text())["context"] == 64
    assert [p.name for p in artifact.parent.iterdir()] == ["onnx"]
    verify(bundle)


@pytest.mark.slow
def test_a_killed_relufy_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    text = tmp_path / "text.txt"
    text.write_text("<|endoftext|>".join("Once upon a time there was a little girl named Lily. " * 3 for _ in range(9)))
    out = tmp_path / "relu"
    shutil.copytree(DEMO, out)
    (out / "relufy.json").write_text("{}")  # so relufy made it, and may replace it
    before = contents(out)
    command = ["relufy", str(DEMO), "-o", str(out), "--overwrite", "--text", str(text), *TRAINING]
    assert kill_when(command, lambda: (tmp_path / "relu.partial" / "edgekit.lock").exists())
    assert contents(out) == before
    run(command)
    assert contents(out) != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["relu", "text.txt"]
    convert(out, tmp_path / "bundle", "q4")
