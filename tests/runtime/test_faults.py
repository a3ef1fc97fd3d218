"""A device that fails, comes short or is slow, and a kernel that forbids io_uring."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.calibrate.calibration import Calibration
from edgekit.conversion import convert
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options
from tests import tiny
from tests.conftest import ROOT

RUN = """
import json, sys
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
job = json.loads(sys.argv[1])
with Session(job["bundle"], Options(**job["options"])) as session:
    out = session.logits(list(range(3, 23)))[-1].tolist()
    for token in range(30, 45):
        out += session.logits([token])[0].tolist()
    print(json.dumps({"out": out, "uring": session.stats.io_uring, "ops": session.stats.read_operations}))
"""

# Denies io_uring_setup to the process from here on (seccomp), then runs the program above.
FORBID = """
import ctypes, platform, struct
NR = 425  # the same on every architecture
code = [(0x20, 0, 0, 0), (0x15, 0, 1, NR), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
raw = b"".join(struct.pack("HBBI", *c) for c in code)
buffer = ctypes.create_string_buffer(raw, len(raw))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    tiny.make("llama_relu", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "f16", layout="split").path


@pytest.fixture(scope="module")
def predicting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with hasty predictors: look-ahead reads are under way when something fails."""
    folder = tmp_path_factory.mktemp("predicting")
    (folder / "text.txt").write_text("Once upon a time there was a little girl named Lily. She had a red ball. " * 20)
    how = Calibration((folder / "text.txt",), tokens=400, predictor=True, epochs=1, order=False)
    return convert(ROOT / "examples" / "demo_model" / "checkpoint", folder / "bundle", "f16", calibration=how).path


def run(bundle: Path, prelude: str = "", env: dict[str, str] | None = None, **options: object) -> tuple[int, dict, str]:
    given = {"context": 64, "batch": 8, "select": "exact", "threads": 2, **options}
    if "ram" not in given:
        given["ram"] = plan_bundle(bundle, Options(context=64, batch=8, select="exact")).floor_bytes + 40960
    job = json.dumps({"bundle": str(bundle), "options": given})
    done = subprocess.run(
        [sys.executable, "-c", prelude + RUN, job],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


def test_short_and_slow_reads_change_nothing(bundle: Path, read_faults: Path) -> None:
    _, want, _ = run(bundle, engine="threads")
    assert want["ops"] > 0
    for fault in ("short", "slow:2000"):
        status, got, error = run(bundle, env={"LD_PRELOAD": str(read_faults), "FAULT": fault}, engine="threads")
        assert status == 0, error
        assert got["out"] == want["out"]


@pytest.mark.parametrize("io", ["direct", "buffered"])
def test_failing_reads_are_a_clear_error_wherever_they_strike(bundle: Path, read_faults: Path, io: str) -> None:
    for first in (1, 3, 9, 30, 80):
        env = {"LD_PRELOAD": str(read_faults), "FAULT": f"eio:{first}"}
        status, _, error = run(bundle, env=env, engine="threads", io=io)
        assert status == 1
        assert "cannot read" in error
        assert "flash.bin" in error


def test_reads_ahead_that_fail_are_an_error_too(predicting: Path, read_faults: Path) -> None:
    floor = plan_bundle(predicting, Options(context=64, batch=8, select="predicted")).floor_bytes
    options = {"select": "predicted", "ram": floor + (3 << 20), "engine": "threads"}
    _, want, _ = run(predicting, **options)
    assert want["ops"] > 100
    for first in (12, 25, 60, 100, 200, 300):
        status, _, error = run(predicting, env={"LD_PRELOAD": str(read_faults), "FAULT": f"eio:{first}"}, **options)
        assert status == 1
        assert "flash.bin" in error
    status, got, error = run(predicting, env={"LD_PRELOAD": str(read_faults), "FAULT": "slow:500"}, **options)
    assert status == 0, error
    assert got["out"] == want["out"]


def test_forbidden_io_uring_falls_back_to_threads(bundle: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("seccomp is Linux's")
    _, want, _ = run(bundle)
    status, got, error = run(bundle, FORBID)
    assert status == 0, error
    assert not got["uring"]
    assert got["out"] == want["out"]
    status, _, error = run(bundle, FORBID, engine="uring")
    assert status == 1
    assert "does not allow io_uring" in error


def test_a_reader_that_falls_back_from_direct_reads_fails_no_other(bundle: Path, read_faults: Path) -> None:
    _, want, _ = run(bundle, engine="threads")
    for select in ("exact", "all"):
        env = {"LD_PRELOAD": str(read_faults), "FAULT": "einval"}
        status, got, error = run(bundle, env=env, engine="threads", select=select)
        assert status == 0, error
        if select == "exact":
            assert got["out"] == want["out"]


@pytest.mark.parametrize("fault", ["eagain", "eintr"])
def test_a_file_that_is_never_ready_is_an_error_with_its_name(bundle: Path, read_faults: Path, fault: str) -> None:
    status, _, error = run(bundle, env={"LD_PRELOAD": str(read_faults), "FAULT": fault}, engine="threads")
    assert status == 1
    assert "flash.bin" in error


# Answers io_uring_enter with EAGAIN for ever: whenever it is called, or only when it shall wait.
REFUSE_ENTER = FORBID.replace("NR = 425", "NR = 426").replace("0x00050001", "0x0005000B")
REFUSE_WAIT = REFUSE_ENTER.replace("(0x15, 0, 1, NR), ", "(0x15, 0, 3, NR), (0x20, 0, 0, 32), (0x15, 1, 0, 0), ")


@pytest.mark.parametrize("prelude", [REFUSE_ENTER, REFUSE_WAIT], ids=["enter", "wait"])
def test_a_ring_that_is_always_busy_changes_nothing(bundle: Path, prelude: str) -> None:
    if sys.platform != "linux":
        pytest.skip("seccomp is Linux's")
    _, want, _ = run(bundle)
    if not want["uring"]:
        pytest.skip("no io_uring here")
    status, got, error = run(bundle, prelude)
    assert status == 0, error
    assert got["out"] == want["out"]


@pytest.mark.parametrize("name", ["manifest.json", "resident.bin", "flash.bin", "units.bin"])
def test_a_pipe_in_a_bundle_is_refused_at_once(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    program = (
        "import sys\nfrom edgekit.runtime.native import library\nimport ctypes\n"
        "message = ctypes.create_string_buffer(4096)\n"
        "status = library().edgekit_verify_bundle(sys.argv[1].encode(), ctypes.cast(message, "
        "library().edgekit_verify_bundle.argtypes[1]))\nprint(status, message.raw)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "is not a regular file" in done.stdout
