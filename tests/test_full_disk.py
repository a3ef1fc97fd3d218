"""Disks that are full, and what interrupted jobs left torn: one line each, and nothing that was there is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.calibrate.calibration import Calibration
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.verify import verify
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    story = "Once upon a time there was a little girl named Lily. She had a red ball and loved to play outside. "
    file.write_text("<|endoftext|>".join(story * 3 for _ in range(30)))
    return file


def edgekit(*arguments: object, write_faults: Path | None = None, full: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command; no byte goes into files with `full` in their path."""
    more = {} if write_faults is None else {"LD_PRELOAD": str(write_faults), "FULL": full}
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("full", [".safetensors.new", "/inputs-", "/flash.bin", "/manifest.json", ".journal.jsonl"])
def test_a_full_disk_during_a_calibration_is_one_line(
    full: str, text: Path, tmp_path: Path, write_faults: Path
) -> None:
    out = convert(DEMO, tmp_path / "m", "q4").path
    before = (out / "flash.bin").read_bytes()
    command = ("convert", DEMO, "-o", out, "--recipe", "q8", "-q", "--overwrite", "--calibration", text)
    command += ("--calibration-tokens", 512)
    done = edgekit(*command, write_faults=write_faults, full=full)
    assert done.returncode == 1, done.stderr
    assert "disk is full" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert (out / "flash.bin").read_bytes() == before
    verify(out)
    done = edgekit(*command)
    assert done.returncode == 0, done.stderr
    assert (out / "flash.bin").read_bytes() != before
    verify(out)
    assert [p.name for p in tmp_path.iterdir()] == ["m.edgekit"]


def test_what_a_calibration_learned_is_kept_for_the_next_call(text: Path, tmp_path: Path) -> None:
    calibration = Calibration((text,), tokens=512)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(DEMO, tmp_path / "m", "q8", calibration=calibration, progress=stop)
    steps: list[str] = []
    convert(DEMO, tmp_path / "m", "q8", calibration=calibration, note=lambda step, done, total: steps.append(step))
    assert steps == []
    assert [p.name for p in tmp_path.iterdir()] == ["m.edgekit"]


TRAINING = ("--steps", 6, "--batch-size", 2, "--max-tokens", 32, "--device", "cpu", "-q")


@pytest.mark.parametrize("full", ["/output/", "/training/"])
def test_a_full_disk_during_relufy_is_one_line(full: str, text: Path, tmp_path: Path, write_faults: Path) -> None:
    out = tmp_path / "relu"
    if full == "/training/":
        pytest.importorskip("torch")
        done = _saving(text, out, write_faults, full)
    else:
        done = edgekit("relufy", DEMO, "-o", out, "--text", text, *TRAINING, write_faults=write_faults, full=full)
    assert done.returncode == 1, done.stderr
    assert "disk is full" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not out.exists()


def _saving(text: Path, out: Path, write_faults: Path, full: str) -> subprocess.CompletedProcess[str]:
    """relufy that saves after each second step, which the command line cannot ask for."""
    code = (
        "import sys; from pathlib import Path\n"
        "import edgekit.train.relufy as r; from edgekit.errors import EdgekitError\n"
        "try: r.relufy(sys.argv[1], sys.argv[2], [Path(sys.argv[3])], r.Surgery(),"
        " r.Tuning(6, 2, 32, save_every=2, device='cpu'))\n"
        "except EdgekitError as error: sys.exit(str(error))"
    )
    command = [sys.executable, "-c", code, str(DEMO), str(out), str(text)]
    env = {**os.environ, "LD_PRELOAD": str(write_faults), "FULL": full}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def interrupted(text: Path, out: Path) -> Path:
    """Trains for five steps of six, saved after the fourth; returns the folder of what was saved."""
    from edgekit.train.relufy import Surgery, Tuning, relufy

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    tuning = Tuning(6, 2, 32, save_every=2, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        relufy(DEMO, out, [text], Surgery(), tuning, progress=stop)
    return out.with_name(out.name + ".partial") / "training"


def resumed(text: Path, out: Path) -> int:
    """The steps that a second call found done."""
    from edgekit.train.relufy import Surgery, Tuning, relufy

    return relufy(DEMO, out, [text], Surgery(), Tuning(6, 2, 32, save_every=2, device="cpu")).resumed


def test_relufy_goes_on_whatever_lies_beside_its_state(text: Path, tmp_path: Path) -> None:
    training = interrupted(text, tmp_path / "relu")
    (training / "state.json").write_text('{"ke')  # what an older edgekit, or a killed call, may leave
    (training / ".tmpAbCdEf").write_bytes(b"half")
    (training / "new.safetensors").write_bytes(b"half")
    assert resumed(text, tmp_path / "relu") == 4
    assert [p.name for p in tmp_path.iterdir()] == ["relu"]
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "relu").iterdir()}
    assert modes == {(tmp_path / "relu" / "config.json").stat().st_mode & 0o777}  # all as readable as any new file


@pytest.mark.parametrize("size", [0, 7, 100, -1000])
def test_a_torn_state_of_relufy_is_one_line(size: int, text: Path, tmp_path: Path) -> None:
    state = interrupted(text, tmp_path / "relu") / "state.safetensors"
    torn = state.read_bytes()[:size]
    state.write_bytes(torn)
    with pytest.raises(ConvertError, match=r"state\.safetensors: .*damaged.*remove") as caught:
        resumed(text, tmp_path / "relu")
    assert "\n" not in str(caught.value)
    assert state.read_bytes() == torn
    state.unlink()
    assert resumed(text, tmp_path / "relu") == 0
