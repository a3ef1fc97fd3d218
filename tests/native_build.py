"""Builds of the runtime with sanitizers or for another processor, made once and shared by the tests that need them."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLAGS = {"address": "address,undefined", "thread": "thread"}
# Sanitized and emulated code is slow in any case, and more optimization takes longer than what it gains: a third for
# the kernels. Headers are the larger part of the rest, so that a dozen files are compiled as one.
QUICK = ("-DCMAKE_CXX_FLAGS_RELEASE=-Og -DNDEBUG", "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=12")


@contextmanager
def alone_with(name: str) -> Iterator[None]:
    """Within it, no other process of the tests works on build/NAME."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(name: str, *options: str, target: str = "edgekit_tests") -> Path:
    """Configures and builds a target in build/NAME, which later runs reuse; returns the folder.

    Args:
        name: "address" or "thread", which bring their sanitizers, or any other.
        options: of CMake.
        target: edgekit_tests, fuzz_targets (of "address") or edgekit.
    """
    folder = ROOT / "build" / name
    beside = Path(sys.executable).with_name("cmake")  # of the dev extra; the system may have none
    cmake = beside if beside.exists() else "cmake"
    if name in FLAGS:
        if shutil.which("ccache") is not None:
            options = ("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache", *options)
        options = (f"-DEDGEKIT_SANITIZE={FLAGS[name]}", "-DEDGEKIT_BUILD_FUZZ=ON", *options)
    options = ("-DEDGEKIT_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release", *QUICK, *options)
    configure = [cmake, "-S", ROOT, "-B", folder, *options]
    make = [cmake, "--build", folder, "--target", target, "-j", "2"]
    with alone_with(name):
        for command in (configure, make):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                pytest.fail(f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return folder
