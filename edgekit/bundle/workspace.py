"""Where an output is made before it is whole: the folder `OUTPUT.partial/`, for one process at a time.

Every output (bundle, artifact, checkpoint, graph) is made this way. The folder holds `edgekit.lock`, which shows that
edgekit made it and which the running process has locked; no folder without it is touched. The kernel lets go of the
lock when the process dies. The file is removed only by the process that has it locked, and who locks it looks whether
it still is the file of that name: so two processes never both believe that they have it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.bundle.disk import put_in_place
from edgekit.errors import ConvertError

LOCK = "edgekit.lock"


@dataclass(frozen=True)
class Workspace:
    """The locked folder of one output.

    Attributes:
        target: where the output goes, links followed.
        folder: `TARGET.partial/`.
    """

    target: Path
    folder: Path

    @property
    def output(self) -> Path:
        """Where the output is made."""
        return self.folder / ("output" + self.target.suffix)

    @property
    def replaced(self) -> Path:
        """Where an old output waits, on systems that cannot swap two names."""
        return self.folder / "replaced"

    def place(self) -> None:
        """Gives the output its final name; an old one that had it goes away."""
        put_in_place(self.output, self.target, self.replaced)


def output_path(out: Path) -> Path:
    """Where an output goes. A link stays, and what it points to is made or replaced.

    Raises:
        ConvertError: no name, or no folder to put it into.
    """
    if out.name in ("", ".."):
        raise ConvertError(f"output '{out}' is a folder and no name for something new; add a name to it")
    try:
        target = out.resolve() if out.is_symlink() else out
        found = target.parent.is_dir()
    except (OSError, RuntimeError) as error:  # a link that leads to itself, a name that is too long
        raise ConvertError(f"{out}: cannot be an output: {error}") from error
    if not found:
        raise ConvertError(f"{target.parent}: no such folder; make it first")
    return target


def check_replaceable(target: Path, overwrite: bool, kind: str, is_one: Callable[[Path], bool]) -> None:
    """Refuses to replace anything but an output of the same kind, and that only if asked for.

    Args:
        target: the output (`output_path`).
        overwrite: whether it was asked for.
        kind: what is replaced, as "a bundle".
        is_one: whether what is there is of that kind.

    Raises:
        ConvertError: something is there and stays.
    """
    if not target.exists():
        return
    if not overwrite:
        raise ConvertError(f"{target}: exists already; choose another name or pass --overwrite")
    if not is_one(target):
        raise ConvertError(f"{target}: is not {kind}, so it is not replaced; move it or choose another name")


def is_empty(path: Path) -> bool:
    """Whether it is a folder that holds nothing to lose."""
    return path.is_dir() and not any(path.iterdir())


def check_apart(source: Path, target: Path) -> None:
    """Refuses an output that is its own source, lies inside it, or has it inside.

    Raises:
        ConvertError: it does.
    """
    a, b = source.resolve(), target.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise ConvertError(f"{target}: the output and its source {source} lie in each other; choose another place")


@contextmanager
def workspace(target: Path, *, resumes: bool) -> Iterator[Workspace]:
    """Locks the workspace of an output (`output_path`) and removes it after success.

    Args:
        target: the output.
        resumes: whether the job goes on from what an interrupted call left; else leftovers are removed.

    Raises:
        ConvertError: another process has it, something else is in the way, or the disk fails within the block.
    """
    space = Workspace(target, target.with_name(target.name + ".partial"))
    cure = "run the same command again, it resumes" if resumes else "run the same command again"
    try:
        lock = _acquire(space.folder)
        try:
            if space.replaced.exists() and not target.exists():
                space.replaced.rename(target)
            if not resumes:
                _empty(space.folder)
            try:
                yield space
            except BaseException:
                if not resumes or not any(p.name != LOCK for p in space.folder.iterdir()):
                    _remove(space.folder)
                raise
            _remove(space.folder)
        finally:
            os.close(lock)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConvertError(f"{space.folder}: the disk is full; free some space and {cure}") from error
        raise ConvertError(f"{error.filename or space.folder}: {error.strerror or error}") from error


def _acquire(folder: Path) -> int:
    """Makes the folder if needed and locks it; returns the handle of the lock."""
    while True:
        if folder.is_symlink() or (folder.exists() and not _is_ours(folder)):
            raise ConvertError(f"{folder}: is in the way and was not made by this edgekit; move or remove it")
        folder.mkdir(exist_ok=True)
        path = folder / LOCK
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # the process that had it has just removed the folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise ConvertError(
                f"{folder}: another process is writing this output; wait for it or choose another name"
            ) from None
        except FileNotFoundError:
            pass  # removed by the process that had it, between our open and our lock
        os.close(lock)


def _is_ours(folder: Path) -> bool:
    """A folder with our lock in it, or an empty one, which holds nothing to lose."""
    try:
        return folder.is_dir() and ((folder / LOCK).is_file() or not any(folder.iterdir()))
    except FileNotFoundError:
        return True  # just removed by its process


def _empty(folder: Path) -> None:
    """Removes everything but the lock."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def _remove(folder: Path) -> None:
    """Removes the folder, the lock last. Another process may take the folder over once the lock is gone."""
    _empty(folder)
    (folder / LOCK).unlink()
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
            raise
