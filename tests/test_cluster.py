"""Conversions by the workers of a Dask cluster: a real scheduler and two workers, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.bundle import encoding
from edgekit.bundle.layout import MANIFEST
from edgekit.calibrate.calibration import Calibration
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.jobs import cluster as room
from edgekit.verify import verify
from tests.conftest import DEMO, ROOT

distributed = pytest.importorskip("distributed", reason="--cluster needs edgekit[cluster]")
WAIT = 60  # seconds until a scheduler or worker must be there


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A scheduler's address; two workers of one thread each, without the nannies that would start them again."""
    file, processes = tmp_path / "scheduler.json", []

    def start(kind: str, *options: str) -> None:
        command = [sys.executable, "-m", "dask", kind, "--scheduler-file", str(file), *options]
        command += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        with (tmp_path / f"{kind}-{len(processes)}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))

    try:
        start("scheduler", "--port", "0")
        end = time.monotonic() + WAIT
        while not file.is_file() and time.monotonic() < end:
            time.sleep(0.05)
        for _ in range(2):
            start("worker", "--no-nanny", "--nthreads", "1", "--local-directory", str(tmp_path))
        found = json.loads(file.read_text())["address"]
        with distributed.Client(found, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=WAIT)
        yield found
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_cluster_makes_the_same_bundle_although_a_worker_is_killed(address: str, tmp_path: Path) -> None:
    here = convert(DEMO, tmp_path / "here", "palette4").path
    killed: list[int] = []

    with distributed.Client(address, set_as_default=False) as client:
        pids = client.run(os.getpid)

        def kill(done: int, total: int) -> None:
            busy = [worker for worker, jobs in client.processing().items() if jobs]
            if 0 < done < total and busy and not killed:
                killed.append(pids[busy[0]])
                os.kill(killed[0], signal.SIGKILL)

        there = convert(DEMO, tmp_path / "there", "palette4", cluster=address, progress=kill).path
        assert killed, "no worker had a job when one was to be killed"
        assert len(client.scheduler_info()["workers"]) == 1
    assert contents(there) == contents(here)
    verify(there)


def test_solvers_that_learn_from_text_work_there_too(address: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl who had a red ball. " * 200)
    learn = Calibration((text,), 256)
    here, there = (
        convert(DEMO, tmp_path / name, "scaled3", calibration=learn, cluster=where).path
        for name, where in (("here", None), ("there", address))
    )
    names = {rule.get("solver") for rule in json.loads((there / MANIFEST).read_text())["provenance"]["rules"]}
    assert "gptq" in names
    assert contents(there) == contents(here)


def test_an_interrupted_conversion_goes_on(address: str, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(DEMO, tmp_path / "m", "q4", cluster=address, progress=stop)
    done = convert(DEMO, tmp_path / "m", "q4", cluster=address)
    assert done.resumed > 0
    assert contents(done.path) == contents(convert(DEMO, tmp_path / "here", "q4").path)


def test_a_worker_that_sees_another_checkpoint_says_so(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "source_file", lambda path: encoding.SourceFile(path, 1, ""))  # here, not there
    with pytest.raises(ConvertError, match="a worker has another file under this path"):
        convert(DEMO, tmp_path / "m", "q4", cluster=address)


def test_a_missing_scheduler_and_another_version_are_told(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "TIMEOUT", 1)
    with pytest.raises(ConvertError, match="no Dask scheduler answers"):
        convert(DEMO, tmp_path / "m", "q4", cluster="tcp://127.0.0.1:9")
    with pytest.raises(ConvertError, match="give the scheduler's address"):
        convert(DEMO, tmp_path / "m", "q4", cluster="nonsense")
    monkeypatch.setattr(room, "__version__", "9.9")
    with pytest.raises(ConvertError, match=r"has edgekit .*, this is 9\.9"):
        convert(DEMO, tmp_path / "m", "q4", cluster=address)
    assert not list(tmp_path.glob("m*"))
