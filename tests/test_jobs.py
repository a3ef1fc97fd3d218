"""Jobs on threads, and what a job checks before it reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgekit.bundle.encoding import source_file
from edgekit.errors import ConvertError
from edgekit.jobs import Threads


def count(job: int) -> Iterator[int]:
    yield from range(job)


def test_every_item_is_done_once() -> None:
    done = Threads(3).run(range(20), lambda i: i, count, lambda item, pieces: sum(pieces))
    assert sorted(done) == [(i, i * (i - 1) // 2) for i in range(20)]


def test_no_more_jobs_are_prepared_than_there_are_threads() -> None:
    lock, counts = threading.Lock(), {"now": 0, "most": 0}

    def prepare(item: int) -> int:
        with lock:
            counts["now"] += 1
            counts["most"] = max(counts["most"], counts["now"])
        return item

    def take(item: int, pieces: Iterator[int]) -> None:
        list(pieces)
        with lock:
            counts["now"] -= 1

    list(Threads(2).run(range(50), prepare, count, take))
    assert 1 <= counts["most"] <= 2


def test_what_has_not_begun_is_dropped_when_left_early() -> None:
    begun: list[int] = []
    work = Threads(1).run(range(10), lambda i: begun.append(i) or i, count, lambda item, pieces: sum(pieces))
    with closing(work):
        next(work)
    assert len(begun) <= 2


def test_errors_of_a_job_are_raised() -> None:
    def broken(job: int) -> Iterator[int]:
        raise ConvertError("broken")
        yield job

    with pytest.raises(ConvertError, match="broken"):
        list(Threads(2).run(range(3), lambda i: i, broken, lambda item, pieces: list(pieces)))


def test_a_worker_without_the_checkpoint_or_with_another_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    described = source_file(path)
    described.check()
    path.write_bytes(b"two")
    with pytest.raises(ConvertError, match="another file under this path"):
        described.check()
    path.unlink()
    with pytest.raises(ConvertError, match="a worker cannot read it"):
        described.check()
