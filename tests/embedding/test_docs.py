"""The examples of docs/embeddings.md are run, with tiny models in the place of real ones."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import encoders
from tests.conftest import ROOT
from tests.serve.conftest import Running

PAGE = (ROOT / "docs" / "embeddings.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples run: with the two checkpoints that they name."""
    made = tmp_path_factory.mktemp("examples")
    encoders.make("bert", made / "all-MiniLM-L6-v2")
    encoders.add_modules(made / "all-MiniLM-L6-v2", length=32)
    encoders.make("bert", made / "ms-marco-MiniLM-L6-v2", scores=True)
    for checkpoint in made.iterdir():
        encoders.add_tokenizer(checkpoint)
    return made


def run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def test_every_example_works(folder: Path) -> None:
    server: Running | None = None
    count = 0
    for language, block in BLOCKS:
        lines = block.strip().splitlines() if language == "bash" else [block]
        for line in lines:
            count += 1
            if line.startswith("edgekit serve "):
                arguments = shlex.split(line)[2:]
                server = Running(*(str(folder / a) if a.endswith(".edgekit") else a for a in arguments))
                continue
            if server is not None:
                line = line.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}")
                line = line.replace("localhost:8080", f"127.0.0.1:{server.port}")
            if language == "python":
                assert run([sys.executable, "-c", line], folder) or "print" not in line
            elif line.startswith("curl"):
                if shutil.which("curl") is not None:
                    assert run(shlex.split(line.replace("curl", "curl -sS --fail-with-body", 1)), folder)
            else:
                assert line.startswith("edgekit ")
                run([sys.executable, "-m", *shlex.split(line)], folder)
    assert server is not None
    server.stop()
    assert count > 10
