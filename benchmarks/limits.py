"""Running a command under a memory limit that the kernel enforces, page cache included."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Limited:
    """Outcome of a command under a limit; `peak` counts its page cache too."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    peak: int

    @property
    def killed(self) -> bool:
        """Ended by the kernel for its memory."""
        return self.returncode in (-9, 137)


def available() -> bool:
    """Whether this process may make memory groups."""
    return (os.geteuid() == 0 and (V1 / "memory.limit_in_bytes").exists()) or (V2 / "cgroup.controllers").exists()


@contextmanager
def group(limit: int | None) -> Iterator[tuple[Path | None, Path | None]]:
    """A memory group with a limit: the file that takes process ids, and the one with the peak; neither for None."""
    if limit is None:
        yield None, None
        return
    v1 = (V1 / "memory.limit_in_bytes").exists()
    folder = (V1 if v1 else V2) / f"edgekit-bench-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / ("memory.limit_in_bytes" if v1 else "memory.max")).write_text(str(limit))
        if not v1:
            (folder / "memory.swap.max").write_text("0")
        yield (
            folder / ("tasks" if v1 else "cgroup.procs"),
            folder / ("memory.max_usage_in_bytes" if v1 else "memory.peak"),
        )
    finally:
        for _ in range(50):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def run_limited(
    command: list[str], limit: int | None, env: dict[str, str] | None = None, timeout: float = 900
) -> Limited:
    """Runs a command under `limit` bytes, or without a limit when None."""
    environment = {**os.environ, **(env or {})}

    with group(limit) as (tasks, peak):

        def enter() -> None:
            if tasks is not None:
                tasks.write_text(str(os.getpid()))

        begin = time.monotonic()
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, preexec_fn=enter, timeout=timeout
        )
        seconds = time.monotonic() - begin
        return Limited(done.returncode, done.stdout, done.stderr, seconds, int(peak.read_text()) if peak else 0)


def drop_cache(*paths: Path) -> None:
    """Drops files from the page cache, so that their pages are charged to who reads them next."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                handle = os.open(file, os.O_RDONLY)
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)
