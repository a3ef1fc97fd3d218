"""The commands as a person calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli.main import main
from tests.conftest import DEMO, ROOT


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "demo.edgekit"
    assert main(["convert", str(DEMO), "-o", str(out), "--recipe", "f16", "-q"]) == 0
    return out


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_run_prints_text_then_statistics(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "run", bundle, "-p", "Once upon a time", "-n", 8, "--temp", 0)
    assert status == 0
    assert out.startswith(", there was a little")
    assert "tok/s" in err
    assert "resident" in err


def test_run_json_is_one_object_with_the_promised_fields(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "run", bundle, "-p", "Once", "-n", 5, "--seed", 3, "--json", "--ram", "1M")
    report = json.loads(out)
    assert (status, err) == (0, "")
    for name in (
        "text", "token_ids", "prompt_tokens_per_second", "tokens_per_second", "peak_memory_bytes",
        "bytes_read_per_token", "backend",
    ):  # fmt: skip
        assert name in report
    assert len(report["token_ids"]) == 5
    assert report["peak_memory_bytes"] <= 1 << 20
    assert report["seed"] == 3


def test_same_seed_same_text_other_seed_other_text(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(seed: int, *more: object) -> str:
        _, out, _ = call(capsys, "run", bundle, "-p", "Once", "-n", 40, "--seed", seed, "--temp", 1.2, "--json", *more)
        return str(json.loads(out)["text"])

    assert text(1) == text(1)
    assert text(1) == text(1, "--ram", "1M", "-t", 1)
    assert text(1) != text(2)


def test_stop_strings_end_the_text(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", bundle, "-p", "Once upon a time", "-n", 60, "--temp", 0, "--json"]
    report = json.loads(call(capsys, *arguments, "--stop", "Lily", "-r", "nowhere")[1])
    assert report["text"] == ", there was a little girl named "
    assert report["finish_reason"] == "stop"
    held = json.loads(call(capsys, *arguments, "--stop", "Lilypond")[1])
    whole = json.loads(call(capsys, *arguments)[1])
    assert held["text"] == whole["text"]


def test_prompt_from_a_file(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompt.txt").write_text("Once upon a time")
    _, out, _ = call(capsys, "run", bundle, "-f", tmp_path / "prompt.txt", "-n", 4, "--temp", 0, "-q")
    assert out.startswith(", there was")


def test_inspect_and_verify_report(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "inspect", bundle, "--json")
    table = json.loads(out)
    assert status == 0
    assert table["parameters"] == 5439488
    assert table["codecs"] == {"f16": {"weights": 5439488, "tensors": 36}}
    assert 0 < table["floor_bytes"] < table["full_bytes"]
    status, out, _ = call(capsys, "inspect", DEMO)
    assert "5 x attention 8/4 heads of 32 + gated relu ffn 1024" in out
    status, out, _ = call(capsys, "verify", bundle)
    assert "whole" in out


def test_errors_are_one_line_and_a_status(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["run", tmp_path / "nothing", "-p", "x"],
        ["run", bundle, "-p", "x", "--ram", "1K"],
        ["run", bundle, "-p", "x", "--ram", "much"],
        ["run", bundle, "-p", "x", "-c", "100000"],
        ["run", bundle, "-p", "x", "--kernels", "mmx"],
        ["run", bundle, "-p", "x", "--chat"],
        ["verify", tmp_path],
        ["inspect", tmp_path / "nothing"],
        ["convert", tmp_path, "-o", tmp_path / "out"],
    ):
        status, out, err = call(capsys, *arguments)
        assert (status, out) == (1, "")
        assert err.startswith("edgekit: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err


def test_unknown_flags_and_commands_suggest_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "run", "x", "--promt", "y")
    assert status == 2
    assert "--prompt" in err
    status, _, err = call(capsys, "convrt")
    assert status == 2
    assert "convert" in err


def test_help_has_an_example_and_imports_little() -> None:
    script = "import sys; from edgekit.cli.main import main; main(['--help']); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0
    assert "edgekit run" in done.stdout


def test_reference_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, "-m", "docs.make_cli", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_closed_pipe_is_no_traceback(bundle: Path) -> None:
    command = f"{sys.executable} -m edgekit run {bundle} -p Once -n 300 --ignore-eos | head -c 5"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
