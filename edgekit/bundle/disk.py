"""How files and folders come to lie on the disk so that neither a kill nor a power cut loses anything."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import IO

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux, renameat2(2)
_RENAME_SWAP = 2  # macOS, renamex_np(2)
_CHUNK = 64 << 20


def sync(path: Path) -> None:
    """Makes the kernel write a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """Syncs a file, or everything in a folder and the folder itself."""
    if path.is_dir():
        for inner in path.iterdir():
            sync_tree(inner)
    sync(path)


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Writes every byte, also where the system takes fewer at once than it is given.

    Raises:
        OSError: the disk takes no more.
    """
    view = memoryview(data).cast("B")
    while view:
        taken = file.write(view[:_CHUNK])
        if not taken:
            raise OSError(errno.EIO, "the disk takes no more bytes", file.name)
        view = view[taken:]


def write_file(path: Path, data: bytes) -> None:
    """Writes a small file, syncs it, and compares what was written.

    Raises:
        OSError: it cannot be written, or does not hold what was written.
    """
    with path.open("wb", buffering=0) as file:
        write_all(file, data)
        os.fsync(file.fileno())
    if path.read_bytes() != data:
        raise OSError(errno.EIO, "the file does not hold what was written to it; check the disk", str(path))


def exchange(a: Path, b: Path) -> bool:
    """Swaps two names in one step; False where the system or the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(a), os.fsencode(b)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        status = libc.renamex_np(first, second, ctypes.c_uint(_RENAME_SWAP))
    elif hasattr(libc, "renameat2"):
        status = libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, ctypes.c_uint(_RENAME_EXCHANGE))
    else:
        return False
    if status == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code), str(b))


def put_in_place(made: Path, target: Path, aside: Path) -> None:
    """Gives a whole file or folder its final name. What had the name is at `made` or at `aside` afterwards.

    A kill leaves either the old or the new one under the name. Only where the system cannot swap two names is there a
    moment without either; the old one is then at `aside`, for the caller to put back.
    """
    sync_tree(made)
    if not made.is_dir():
        made.replace(target)
    elif not target.exists():
        made.rename(target)
    elif not exchange(made, target):
        target.rename(aside)
        made.rename(target)
    sync(target.parent)
    sync(made.parent)
