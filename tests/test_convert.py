"""convert: streams, resumes, never mixes, and says clearly what is wrong."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.errors import CheckpointError, ConvertError, EdgekitError, RecipeError, UnsupportedModelError
from edgekit.verify import verify
from tests import tiny
from tests.conftest import ROOT


def digest(bundle: Path) -> dict[str, str]:
    files = sorted(p for p in bundle.rglob("*") if p.is_file())
    return {p.relative_to(bundle).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def big_checkpoint(folder: Path, layers: int = 6, hidden: int = 512) -> Path:
    """A random Llama of a few tens of megabytes, which takes a second or two to palettize."""
    from benchmarks.synthetic import LLAMA_1B, make_checkpoint

    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers, "vocab_size": 4096}
    make_checkpoint(folder, {**LLAMA_1B, **sizes, "num_attention_heads": 8})
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama") / "checkpoint"
    tiny.make("llama", folder)
    return folder


def test_conversion_is_deterministic_and_verifies(llama: Path, tmp_path: Path) -> None:
    a = convert(llama, tmp_path / "a", "palette4", threads=1).path
    b = convert(llama, tmp_path / "b", "palette4", threads=4).path
    assert digest(a) == digest(b)
    assert verify(a).units > 0
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_killed_conversions_resume_to_identical_bytes(tmp_path: Path) -> None:
    checkpoint = big_checkpoint(tmp_path / "checkpoint")
    begin = time.monotonic()
    want = digest(convert(checkpoint, tmp_path / "whole", "palette4").path)
    length = time.monotonic() - begin
    command = [sys.executable, "-m", "edgekit", "convert", str(checkpoint), "-o", str(tmp_path / "killed"), "-q"]
    command += ["--recipe", "palette4"]
    out = tmp_path / "killed.edgekit"
    random.seed(7)
    kills = 0
    for _ in range(100):
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(0.3 + random.random() * length)  # interpreter start, then anywhere in the work
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not out.exists() or digest(out) == want  # its final name only when it is whole
        if kills == 12:
            break
        if out.exists() or random.random() < 0.2:
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(tmp_path / "killed.edgekit.partial", ignore_errors=True)
    assert kills == 12
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run(command, cwd=ROOT, check=True)
    assert digest(out) == want


def interrupted(checkpoint: Path, out: Path, recipe: str) -> None:
    """Converts until half of the weights are done, then stops as Ctrl-C would."""

    def stop(done: int, total: int) -> None:
        if done * 2 > total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(checkpoint, out, recipe, threads=1, progress=stop)


def test_interrupted_conversion_resumes(llama: Path, tmp_path: Path) -> None:
    interrupted(llama, tmp_path / "a", "q4")
    resumed = convert(llama, tmp_path / "a", "q4")
    assert resumed.resumed > 3
    assert digest(resumed.path) == digest(convert(llama, tmp_path / "b", "q4").path)


def test_changed_recipe_or_source_is_not_mixed_in(llama: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(llama, checkpoint)
    interrupted(checkpoint, tmp_path / "a", "q4")
    other = convert(checkpoint, tmp_path / "a", "q8")
    assert (other.resumed, other.restarted) == (0, True)
    assert digest(other.path) == digest(convert(checkpoint, tmp_path / "b", "q8").path)
    interrupted(checkpoint, tmp_path / "c", "q4")
    os.utime(checkpoint / "model.safetensors", (1, 1))
    again = convert(checkpoint, tmp_path / "c", "q4")
    assert (again.resumed, again.restarted) == (0, True)


def test_damaged_leftovers_are_done_again(llama: Path, tmp_path: Path) -> None:
    interrupted(llama, tmp_path / "a", "palette4")
    leftover = tmp_path / "a.edgekit.partial" / "output.edgekit" / "resident.bin"
    data = bytearray(leftover.read_bytes())
    for at in range(0, len(data), 512):
        data[at] ^= 1
    leftover.write_bytes(data)
    assert digest(convert(llama, tmp_path / "a", "palette4").path) == digest(
        convert(llama, tmp_path / "b", "palette4").path
    )


def test_existing_output_is_kept_unless_told(llama: Path, tmp_path: Path) -> None:
    first = digest(convert(llama, tmp_path / "a", "q4").path)
    with pytest.raises(ConvertError, match="--overwrite"):
        convert(llama, tmp_path / "a", "q8")
    assert digest(tmp_path / "a.edgekit") == first
    convert(llama, tmp_path / "a", "q8", overwrite=True)
    assert digest(tmp_path / "a.edgekit") != first
    (tmp_path / "b.edgekit").mkdir()
    (tmp_path / "b.edgekit" / "mine.txt").write_text("keep")
    with pytest.raises(ConvertError, match="not a bundle"):
        convert(llama, tmp_path / "b", overwrite=True)


def test_two_conversions_to_one_output_do_not_mix(llama: Path, tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(ConvertError, match="another process"):
            convert(llama, tmp_path / "a", "q4")

    convert(llama, tmp_path / "a", "q4", progress=second)
    assert [p.name for p in tmp_path.iterdir()] == ["a.edgekit"]


@pytest.mark.slow
def test_memory_stays_below_the_promise_under_a_limit_of_the_system(tmp_path: Path) -> None:
    """Peak memory < 2 x largest tensor + 300 MB, with private memory limited to that by the kernel."""
    checkpoint = big_checkpoint(tmp_path / "checkpoint", layers=12, hidden=1024)
    model = sum(f.stat().st_size for f in checkpoint.glob("*.safetensors"))
    largest = 4096 * 1024 * 2
    limit = 2 * largest + (300 << 20)
    assert model > limit  # or the promise would be empty

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # its threads reserve stacks, never used
    command = [sys.executable, "-m", "edgekit", "convert", str(checkpoint), "-o", str(tmp_path / "out"), "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    subprocess.run(command, cwd=ROOT, check=True, preexec_fn=bound, env=environment, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak <= limit or before * 1024 >= peak  # earlier children may have been larger
    assert verify(tmp_path / "out.edgekit").units > 0


def test_full_disk_is_one_line_and_resumes(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ConvertError, match=r"needs \d+ bytes of disk space but 1000 are free"):
        convert(llama, tmp_path / "a")


@pytest.mark.slow
def test_disk_that_fills_up_meanwhile(tmp_path: Path) -> None:
    """A real small filesystem, filled behind the writer's back after the check for room."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    checkpoint = big_checkpoint(tmp_path / "checkpoint", layers=2)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", disk], capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    try:
        filler = disk / "filler"

        def fill(done: int, total: int) -> None:
            if done and not filler.exists():
                free = shutil.disk_usage(disk).free
                filler.write_bytes(bytes(max(0, free - 4096)))

        with pytest.raises(ConvertError, match=r"disk is full.*resumes"):
            convert(checkpoint, disk / "out", "palette4", progress=fill)
        assert not (disk / "out.edgekit").exists()
        filler.unlink()
        done = convert(checkpoint, disk / "out", "palette4")
        assert done.resumed > 0
        assert digest(done.path) == digest(convert(checkpoint, tmp_path / "out", "palette4").path)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_bad_checkpoints_get_one_clear_line(llama: Path, tmp_path: Path) -> None:
    def broken(name: str, change: object) -> str:
        folder = tmp_path / name
        shutil.copytree(llama, folder)
        change(folder)  # type: ignore[operator]
        with pytest.raises(EdgekitError) as caught:
            convert(folder, tmp_path / f"{name}-out")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def config(text: str, by: str) -> object:
        return lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace(text, by))

    assert "mamba" in broken("type", config('"model_type": "llama"', '"model_type": "mamba"'))
    assert "hidden_size" in broken("size", config('"hidden_size": 64', '"hidden_size": -1'))
    assert "shape" in broken("shape", config('"intermediate_size": 96', '"intermediate_size": 97'))
    assert "no tensor" in broken("layers", config('"num_hidden_layers": 3', '"num_hidden_layers": 9'))
    assert "not valid JSON" in broken("json", lambda f: (f / "config.json").write_text("{"))
    assert "no .safetensors" in broken("none", lambda f: (f / "model.safetensors").unlink())

    def pickled(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    assert "safe_serialization" in broken("pickle", pickled)

    def nan(folder: Path) -> None:
        data = bytearray((folder / "model.safetensors").read_bytes())
        data[-4:] = np.float32(np.nan).tobytes()
        (folder / "model.safetensors").write_bytes(data)

    assert "NaN" in broken("nan", nan)
    with pytest.raises(CheckpointError, match="no such folder"):
        convert(tmp_path / "nowhere" / "at" / "all", tmp_path / "x")
    with pytest.raises(UnsupportedModelError, match=r"known: .*llama.*edgekit/arch/families/mamba\.py"):
        convert(tmp_path / "type", tmp_path / "x")
    with pytest.raises(RecipeError, match="palette4"):
        convert(llama, tmp_path / "x", "q5")


def test_hub_without_a_connection_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be downloaded and is not in the cache"):
        convert("some-owner/some-model", tmp_path / "x")
