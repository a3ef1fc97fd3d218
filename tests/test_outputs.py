"""How outputs come to lie on the disk: nothing of others is touched, and a kill leaves the old one or the new one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.verify import verify
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "edgekit", "convert", str(DEMO), "-o", str(out), "--recipe", "q8", "-q", *more]


def test_neighbours_are_not_touched(tmp_path: Path) -> None:
    for name in ("m.edgekit.old", "m.edgekit.calibration"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("keep")
    convert(DEMO, tmp_path / "m", "q8")
    convert(DEMO, tmp_path / "m", "q8", overwrite=True)
    for name in ("m.edgekit.old", "m.edgekit.calibration"):
        assert (tmp_path / name / "mine.txt").read_text() == "keep"
    (tmp_path / "n.edgekit.partial").mkdir()
    (tmp_path / "n.edgekit.partial" / "mine.txt").write_text("keep")
    with pytest.raises(ConvertError, match="in the way"):
        convert(DEMO, tmp_path / "n", "q8")
    assert (tmp_path / "n.edgekit.partial" / "mine.txt").read_text() == "keep"


def test_a_linked_bundle_is_replaced_where_it_lies(tmp_path: Path) -> None:
    real = convert(DEMO, tmp_path / "real", "q8").path
    link = tmp_path / "link.edgekit"
    link.symlink_to(real)
    for recipe in ("q4", "q8"):
        convert(DEMO, link, recipe, overwrite=True)
        assert link.is_symlink()
        assert verify(link).units > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.edgekit", "real.edgekit"]


def test_outputs_without_a_place_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = tmp_path / "checkpoint"
    shutil.copytree(DEMO, inside)
    before = sorted(inside.iterdir())
    for out in (".", "/", "..", inside / "m", tmp_path / "none" / "m"):
        assert main(["convert", str(inside), "-o", str(out), "--overwrite"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(inside.iterdir()) == before


def test_a_checkpoint_is_never_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(shutil.copytree(DEMO, tmp_path / "model.edgekit"))  # a checkpoint may be called anything
    (tmp_path / "link.edgekit").symlink_to(source)
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    for out in ("model", "model.edgekit", "link", "model.edgekit/inside", "link/inside", "none/../model"):
        for more in ([], ["--overwrite"]):
            assert main(["convert", str(source), "-o", str(tmp_path / out), *more]) == 1
            assert capsys.readouterr().err.count("\n") == 1
    (source / "manifest.json").write_bytes(b'{"checksum":"')  # even if it looked like a bundle
    assert main(["convert", str(source), "-o", str(source), "--overwrite"]) == 1
    assert "lie in each other" in capsys.readouterr().err
    (source / "manifest.json").unlink()
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_short_writes_lose_nothing(tmp_path: Path, write_faults: Path) -> None:
    env = {**os.environ, "LD_PRELOAD": str(write_faults), "SHORT_WRITES": "1"}
    subprocess.run(command(tmp_path / "short"), cwd=ROOT, env=env, check=True)
    verify(tmp_path / "short.edgekit")
    want = convert(DEMO, tmp_path / "whole", "q8").path
    assert (tmp_path / "short.edgekit" / "flash.bin").read_bytes() == (want / "flash.bin").read_bytes()


def test_a_second_job_on_one_output_gets_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl named Lily. She had a red ball. " * 200)
    call = command(tmp_path / "m", "--calibration", str(text), "--calibration-tokens", "2000")
    jobs = [subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs].count(0) == 1
    for job, error in zip(jobs, errors, strict=True):
        assert job.returncode in (0, 1)
        assert error.count("\n") == job.returncode, error
    verify(tmp_path / "m.edgekit")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.edgekit", "text.txt"]


def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path, write_faults: Path) -> None:
    target = convert(DEMO, tmp_path / "m", "q4").path
    for at in range(1, 60, 4):
        env = {**os.environ, "LD_PRELOAD": str(write_faults), "KILL_AT": str(at), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command(target, "--overwrite"), cwd=ROOT, env=env, capture_output=True)
        verify(target)
        if done.returncode == 0:
            break
        assert done.returncode == 137
    convert(DEMO, target, "q8", overwrite=True)
    verify(target)
    assert [p.name for p in tmp_path.iterdir()] == ["m.edgekit"]
