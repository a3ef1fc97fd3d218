"""The C ABI as callers see it: symbols, sizes, the log, and what plan and set_budget may be asked while a pass runs."""

from __future__ import annotations

import ctypes as c
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from edgekit.conversion import convert
from edgekit.runtime import native
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.native import library_path
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny
from tests.conftest import ROOT

HEADER = ROOT / "runtime" / "include" / "edgekit" / "edgekit.h"
# Bytes on 64-bit platforms. A struct may grow at its end; then the caller's struct_size tells which it has.
SIZES = {"error": 512, "options": 96, "plan": 96, "stats": 192, "info": 56, "sampling": 40}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("abi")
    tiny.make("llama", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "q8").path


def declared() -> set[str]:
    return set(re.findall(r"^EDGEKIT_API [^;(]*?(edgekit_\w+)\(", HEADER.read_text(), re.M))


def test_the_library_exports_the_header_and_nothing_else() -> None:
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    done = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in done.stdout.splitlines() if line.split()[-2] in "TDBR"}
    assert exported == declared()
    assert len(exported) > 25


def test_python_declares_every_function() -> None:
    lib = native.library()
    for name in declared() - {"edgekit_session_generate"}:
        assert getattr(lib, name).argtypes is not None, name


def test_structs_have_the_sizes_that_callers_were_built_with(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    checks = "\n".join(f'_Static_assert(sizeof(edgekit_{n}) == {s}, "{n}");' for n, s in SIZES.items())
    (tmp_path / "sizes.c").write_text(f'#include "edgekit/edgekit.h"\n{checks}\nint main(void) {{ return 0; }}\n')
    command = [
        compiler,
        "-std=c11",
        "-pedantic",
        "-Werror",
        "-fsyntax-only",
        "-I",
        HEADER.parents[1],
        tmp_path / "sizes.c",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, size in SIZES.items():
        assert c.sizeof(getattr(native, name.capitalize())) == size, name


def test_features_name_what_there_is() -> None:
    features = native.library().edgekit_features().decode().split(",")
    assert {"exact", "predicted", "budget", "save", "feed_forward", "log"} <= set(features)


def test_the_log_tells_of_opening_and_budgets(bundle: Path) -> None:
    lines: list[tuple[int, str]] = []
    callback = native.Log(lambda level, message, user: lines.append((level, message.decode())))
    options = Options(context=64).native()
    options.log = callback
    model, error = c.c_void_p(), native.Error()
    lib = native.library()
    native.check(lib.edgekit_model_open(str(bundle).encode(), c.byref(options), c.byref(model), c.byref(error)), error)
    floor = plan_bundle(bundle, Options(context=64)).floor_bytes
    native.check(lib.edgekit_model_set_budget(model, 4 * floor, c.byref(error)), error)
    lib.edgekit_model_close(model)
    assert "resident" in lines[0][1]
    assert any(f"budget {4 * floor} bytes" in line for _, line in lines)


def test_budget_plan_and_info_may_be_asked_while_a_pass_runs(bundle: Path) -> None:
    floor = plan_bundle(bundle, Options(context=64)).floor_bytes
    with Session(bundle, Options(context=64, ram=8 * floor)) as session:
        done = threading.Event()

        def pester() -> None:
            while not done.is_set():
                for factor in (6, 8):
                    session.set_budget(factor * floor)
                    assert session.plan.budget_bytes in (6 * floor, 8 * floor)

        thread = threading.Thread(target=pester)
        thread.start()
        try:
            for _ in range(20):
                session.reset()
                session.eval(list(range(5, 45)))
        finally:
            done.set()
            thread.join()
