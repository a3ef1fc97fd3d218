"""Runs benchmarks/peer.py, with an interpreter that has llama-cpp-python and gguf."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import limits
from benchmarks.synthetic import llama_shapes

PEER = str(Path(__file__).with_name("peer.py"))


def available(python: str) -> bool:
    """Whether that interpreter has what it takes."""
    return subprocess.run([python, "-c", "import llama_cpp, gguf"], capture_output=True).returncode == 0


def make(python: str, path: Path, config: dict[str, Any]) -> None:
    """A Q4_0 file of a Llama's shape with random codes, if it is not there."""
    if not path.exists():
        job = json.dumps({"config": config, "shapes": list(llama_shapes(config))})
        subprocess.run([python, PEER, "make", str(path)], input=job, text=True, check=True)


def run(
    python: str, gguf: Path, tokens: int, *, repack: bool, prompt: int = 26, limit: int | None = None
) -> tuple[limits.Limited, dict[str, float]]:
    """A run of llama.cpp ("prompt" and "generation" tok/s); its result is empty if it was killed."""
    command = [python, PEER, "run", str(gguf), str(prompt), str(tokens), str(os.cpu_count()), str(int(repack))]
    done = limits.run_limited(command, limit, timeout=1800)
    return done, json.loads(done.stdout) if done.returncode == 0 else {}
