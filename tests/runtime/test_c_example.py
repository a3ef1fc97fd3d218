"""The C example: compiles strictly, prints Python's tokens, leaks nothing on any path."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import edgekit
from edgekit.conversion import convert
from edgekit.runtime.native import library_path
from edgekit.runtime.values import Sampling
from tests.conftest import ROOT
from tests.native_build import FLAGS, build

SOURCE = ROOT / "examples" / "c" / "generate.c"
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(ROOT / "runtime" / "include")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = ROOT / "examples" / "demo_model" / "checkpoint"
    return convert(source, tmp_path_factory.mktemp("c") / "demo", "palette4").path


def compiled(library: Path, out: Path, *flags: str) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    command = [compiler, *STRICT, *flags, str(SOURCE), str(library), f"-Wl,-rpath,{library.parent}", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, timeout=300)


def test_it_prints_the_tokens_that_python_generates(bundle: Path, tmp_path: Path) -> None:
    with edgekit.load(bundle) as model:
        ids = model.tokenizer.encode("Once upon a time")
        want = [p.token for p in model.generate(ids, 24, Sampling(temperature=0), ignore_eos=True) if p.token >= 0]
    program = compiled(library_path(), tmp_path / "generate")
    done = run(program, str(bundle), "2", "24", *map(str, ids))
    assert done.returncode == 0, done.stderr
    assert [int(t) for t in done.stdout.split()] == want
    assert "tok/s" in done.stderr


@pytest.mark.slow
def test_it_leaks_nothing_on_any_path(bundle: Path, tmp_path: Path) -> None:
    folder = build("address", target="edgekit")
    program = compiled(folder / "libedgekit.so", tmp_path / "generate", f"-fsanitize={FLAGS['address']}")
    (tmp_path / "damaged.edgekit").mkdir()
    (tmp_path / "damaged.edgekit" / "manifest.json").write_bytes(b'{"checksum":"0123456789abcdef",\n')
    for arguments, status in (
        ([str(bundle), "3", "8", "5", "6"], 0),
        ([str(bundle), "1", "8", "5", "6"], 0),
        ([str(bundle), "3", "8", "99999"], 1),
        ([str(bundle), "3", "99999", "5"], 1),
        ([str(tmp_path / "damaged.edgekit"), "3", "8", "5"], 1),
        ([str(tmp_path), "3", "8", "5"], 1),
        ([str(bundle), "3", "8", "x"], 2),
        (["only"], 2),
    ):
        done = run(program, *arguments)
        assert done.returncode == status, (arguments, done.stdout, done.stderr[-3000:])
        assert "Sanitizer" not in done.stderr, done.stderr[-3000:]
