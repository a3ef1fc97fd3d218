"""Bytes that are not UTF-8 on the command line, in a file and on stdin: one line, or they just work as names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.conversion import convert
from tests.conftest import ROOT

BAD = b"caf\xe9"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = ROOT / "examples" / "demo_model" / "checkpoint"
    return convert(demo, tmp_path_factory.mktemp("text") / "demo", "q4").path


def call(*arguments: object, given: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edgekit", *(a if isinstance(a, bytes) else str(a) for a in arguments)]
    return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, env={**os.environ, **env})


def test_text_that_is_not_utf8_is_refused_in_one_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(BAD)
    for arguments in (
        ["-p", BAD], ["-f", tmp_path / "prompt.txt"], ["-f", "-"], ["-p", "x", "--stop", BAD],
        ["-p", "x", "--chat", "--system", BAD], ["-p", "x", "--kernels", BAD],
    ):  # fmt: skip
        done = call("run", bundle, *arguments, given=BAD)
        assert done.returncode == 2, arguments
        assert b"not UTF-8" in done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout == b""


def test_stdin_is_utf8_in_every_locale(bundle: Path) -> None:
    arguments = ("run", bundle, "-f", "-", "-n", 2, "--temp", 0, "--json")
    texts = [
        json.loads(call(*arguments, given="Zoë".encode(), PYTHONIOENCODING=coding).stdout)["prompt_tokens"]
        for coding in ("utf-8", "latin-1")
    ]
    assert texts[0] == texts[1]


def test_names_of_files_may_be_any_bytes(bundle: Path, tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/" + BAD
    shutil.copytree(os.fsencode(bundle), place)
    for command in ("inspect", "verify"):
        done = call(command, place)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert call("inspect", place + b"none").returncode == 1
    assert json.loads(call("inspect", place, "--json").stdout)["kind"] == "bundle"
    done = call("run", place, "-p", "Once", "-n", 2)
    assert b"Traceback" not in done.stderr
