"""The folder of `--prefix-cache`: which files in it are the server's, how many bytes, and which leave first."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import RuntimeFailure

LOCK = "edgekit-prefix-cache.lock"
_NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.session(\.partial)?")


@dataclass
class PrefixCounts:
    """What the cache did since the server began; sizes in bytes.

    Attributes:
        hits: prompts whose beginning was loaded.
        tokens: of those prompts, tokens that were loaded.
        bytes_read: of the files that were loaded.
        bytes_written: of the files that were saved.
        bytes: of all files now.
    """

    hits: int = 0
    tokens: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    bytes: int = 0


@dataclass
class _File:
    size: int
    used: int  # nanoseconds, as the file's time


class PrefixFolder:
    """Files of one server at a time, on flash. Used by the scheduler's thread.

    A file's time says when it was used last, so that a server that starts again knows it too.

    Attributes:
        path: the folder.
        counts: for the metrics.
    """

    def __init__(self, path: Path, most_bytes: int, warn: Callable[[str], None]) -> None:
        """Makes or takes over the folder, and removes what a server that was killed had not finished.

        Args:
            path: a folder that is new, empty, or was made by this class.
            most_bytes: that all files together may have; the file that was saved last may pass it for a moment.
            warn: gets a line for the first thing that goes wrong of each kind; the server goes on.

        Raises:
            RuntimeFailure: not such a folder, or another server uses it.
        """
        self.path, self.counts = path.absolute(), PrefixCounts()
        self._most, self._warn, self._warned = most_bytes, warn, set[str]()
        self._files: dict[str, _File] = {}
        try:
            self._lock = self._acquire()
            self._scan()
        except OSError as error:
            raise RuntimeFailure(f"{self.path}: cannot be the prefix cache: {error.strerror}") from error
        self.trim()

    def _acquire(self) -> int:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self.path / LOCK
        if any(self.path.iterdir()) and not lock.is_file():
            raise RuntimeFailure(
                f"{self.path}: has other files in it, so it cannot be the prefix cache; name a new or an empty folder"
            )
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RuntimeFailure(f"{self.path}: another server uses this prefix cache; name another folder") from None
        return handle

    def _scan(self) -> None:
        with os.scandir(self.path) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                found = entry.stat(follow_symlinks=False)
                if entry.name == LOCK:
                    continue
                if match is None or not stat.S_ISREG(found.st_mode):
                    self.warn("foreign", f"{entry.path}: was not made by the prefix cache; it and its like are ignored")
                elif match[1]:
                    os.unlink(entry.path)
                else:
                    self._files[entry.name] = _File(found.st_size, found.st_mtime_ns)

    def warn(self, kind: str, line: str) -> None:
        """Says something once."""
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(line)

    def names(self, begin: str) -> list[str]:
        """Files whose name begins so."""
        return [name for name in self._files if name.startswith(begin)]

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def added(self, name: str) -> None:
        """A file is there now; the least recently used ones make room for it."""
        size = (self.path / name).stat().st_size
        self._files[name] = _File(size, self._touch(name))
        self.counts.bytes_written += size
        self.trim()

    def loaded(self, name: str, tokens: int) -> None:
        """A file was used for a prompt."""
        file = self._files[name]
        self.counts.hits += 1
        self.counts.tokens += tokens
        self.counts.bytes_read += file.size
        try:
            file.used = self._touch(name)
        except OSError:  # it was removed by hand; the next load says so
            return

    def _touch(self, name: str) -> int:
        """Notes that a file is used now; returns when. The system's own times are ticks, within which much happens."""
        now = max([time.time_ns(), *(file.used + 1 for file in self._files.values())])
        os.utime(self.path / name, ns=(now, now))
        return now

    def remove(self, name: str) -> None:
        """Takes a file away."""
        self._files.pop(name, None)
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            self.warn("remove", f"{self.path / name}: cannot be removed: {error.strerror}")
        self._count()

    def trim(self) -> None:
        """Removes the least recently used files until the rest is within the limit."""
        self._count()
        for name in sorted(self._files, key=lambda n: self._files[n].used):
            if self.counts.bytes <= self._most:
                return
            self.remove(name)

    def _count(self) -> None:
        self.counts.bytes = sum(file.size for file in self._files.values())

    def close(self) -> None:
        """Lets another server have the folder."""
        os.close(self._lock)
