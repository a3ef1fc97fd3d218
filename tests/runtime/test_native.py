"""The runtime's own tests, built with sanitizers here and for ARM under qemu; and its header in C."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.conversion import convert
from tests import tiny
from tests.conftest import ROOT
from tests.native_build import build


def run(program: list[str | Path], bundle: Path | None = None) -> str:
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    if bundle is not None:
        environment["EDGEKIT_TEST_BUNDLE"] = str(bundle)
    done = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small bundles with dense and expert blocks, in codecs of every kind."""
    folder = tmp_path_factory.mktemp("bundles")
    made = []
    for name, recipe, layout in (("llama", "palette4", "auto"), ("mixtral", "q4", "auto"), ("opt_wide", "q4", "split")):
        tiny.make(name, folder / name)
        made.append(convert(folder / name, folder / f"{name}-bundle", recipe, layout=layout).path)
    return made


def names_on_bundles() -> list[str]:
    """The runtime's tests that may use a bundle; what the others do is the same with any."""
    names: list[str] = []
    for source in sorted((ROOT / "runtime" / "tests").glob("test_*.cpp")):
        text = source.read_text()
        names += re.findall(r"^TEST\((\w+)\)", text, re.MULTILINE) if "EDGEKIT_TEST_BUNDLE" in text else []
    return names


@pytest.mark.slow
def test_runtime_under_address_and_undefined_behaviour_sanitizers(bundles: list[Path]) -> None:
    program = build("address") / "edgekit_tests"
    assert "0 failures" in run([program], bundles[0])
    for bundle in bundles[1:]:
        assert "0 failures" in run([program, *names_on_bundles()], bundle)


@pytest.mark.slow
def test_runtime_under_thread_sanitizer(bundles: list[Path]) -> None:
    program = build("thread") / "edgekit_tests"
    assert "0 failures" in run([program, "parallel_for", "reader"])
    for bundle in bundles:
        assert "0 failures" in run([program, "hostile_calls", "hostile_file", "session", "feed_forward"], bundle)


@pytest.mark.slow
def test_neon_kernels_under_qemu(bundles: list[Path]) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64-static")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user-static (apt-get install both)")
    folder = build(
        "aarch64",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    program = folder / "edgekit_tests"
    names = ["match", "decoded", "integer", "half", "hostile_calls", "hostile_file", "session", "window", "region"]
    for cpu in ("cortex-a53", "max"):  # without and with every extension
        assert "0 failures" in run([emulator, "-cpu", cpu, program, *names, "reader", "feed_forward"], bundles[0])


@pytest.mark.parametrize("standard", ["c11", "c17"])
def test_header_compiles_as_c(standard: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "header.c"
    source.write_text(
        '#include "edgekit/edgekit.h"\nint main(void) { return (int)edgekit_abi_version() - EDGEKIT_ABI_VERSION; }\n'
    )
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
    subprocess.run([compiler, *flags, "-I", ROOT / "runtime" / "include", source], check=True)


@pytest.mark.slow
def test_the_library_links_for_macos(tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("needs the ziglang wheel, a cross compiler with a macOS linker (pip install ziglang)")
    sources = [str(p) for p in (ROOT / "runtime" / "src").rglob("*.cpp")]
    include = [f"-I{ROOT / 'runtime' / folder}" for folder in ("include", "src")]
    out = tmp_path / "libedgekit.dylib"
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "c++",
        "-target",
        "aarch64-macos",
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
    ]
    command += [
        "-Werror",
        "-fno-exceptions",
        "-fno-rtti",
        "-shared",
        '-DEDGEKIT_VERSION_STRING="0"',
        *include,
        *sources,
    ]
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert out.read_bytes()[:4] == b"\xcf\xfa\xed\xfe"  # Mach-O, 64 bits
