"""Builds of the runtime with sanitizers or for another processor, made once and shared by the tests that need them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLAGS = {"address": "address,undefined", "thread": "thread"}
# Sanitized code is slow in any case; half of the time that its build takes goes into the last optimizations.
QUICK = "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG"


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
        options = (f"-DEDGEKIT_SANITIZE={FLAGS[name]}", "-DEDGEKIT_BUILD_FUZZ=ON", QUICK, *options)
    configure = [cmake, "-S", ROOT, "-B", folder, "-DEDGEKIT_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release", *options]
    try:
        subprocess.run(configure, check=True, capture_output=True, text=True)
        subprocess.run(
            [cmake, "--build", folder, "--target", target, "-j", "2"], check=True, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error.cmd}\n{error.stdout[-4000:]}\n{error.stderr[-4000:]}")
    return folder
