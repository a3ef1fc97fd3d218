"""The device profile: measured once, kept in a small file, read by `plan`.

Reads are made by the runtime's own engine on a file of this device, at several sizes and depths, at
random places. Kernels multiply matrices that no cache holds.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgekit.errors import RuntimeFailure
from edgekit.files import write_atomically
from edgekit.runtime import native

SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
DEPTHS = (1, 8, 32, 128)
STREAM_BYTES, STREAM_DEPTH, STREAM_THREADS = 1 << 20, 32, 4  # how the runtime streams layers
KERNELS = (("f32", 32), ("f16", 16), ("affine", 8), ("affine", 4), ("palette", 8), ("palette", 6), ("palette", 4),
           ("palette", 3), ("palette", 2), ("palette", 1))  # fmt: skip
VERSION = 2


@dataclass(frozen=True)
class Reads:
    """Rate of random reads: bytes per second, by size and reads under way."""

    size: int
    depth: int
    bytes_per_second: float

    @property
    def per_second(self) -> float:
        """Reads per second."""
        return self.bytes_per_second / self.size


@dataclass(frozen=True)
class Profile:
    """What a device can do.

    Attributes:
        machine: for people.
        threads: compute threads measured.
        direct: reads bypassed the page cache.
        engine: "uring" or "threads".
        first_touch: bytes per second of the file's first reading from end to end (hosts cache below us).
        stream: bytes per second as layers are streamed, again and again.
        reads: random reads.
        kernels: bytes of weights per second, by codec and bits ("palette4"), and in sums of rows ("palette4.down").
    """

    machine: str
    threads: int
    direct: bool
    engine: str
    first_touch: float
    stream: float
    reads: tuple[Reads, ...]
    kernels: dict[str, float] = field(default_factory=dict)
    version: int = VERSION

    def read_seconds(self, size: float, count: float, depth: int) -> float:
        """Time for `count` random reads of `size` bytes each, `depth` under way."""
        if count <= 0:
            return 0.0
        near = min({r.depth for r in self.reads}, key=lambda d: abs(d - depth))
        rows = sorted((r for r in self.reads if r.depth == near), key=lambda r: r.size)
        low = max((r for r in rows if r.size <= size), key=lambda r: r.size, default=rows[0])
        high = min((r for r in rows if r.size >= size), key=lambda r: r.size, default=rows[-1])
        share = 0.0 if low.size == high.size else (size - low.size) / (high.size - low.size)
        one = (1 - share) / low.per_second + share / high.per_second
        return count * (one if size <= rows[-1].size else size / rows[-1].bytes_per_second)

    def save(self, path: Path) -> None:
        """Writes the profile.

        Raises:
            RuntimeFailure: the file cannot be written.
        """
        try:
            write_atomically(path, json.dumps(asdict(self), indent=1))
        except OSError as error:
            raise RuntimeFailure(f"{path}: cannot write: {error.strerror}") from error


def default_path() -> Path:
    """Where the profile of this machine is kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgekit" / "profile.json"


def load(path: Path) -> Profile:
    """A saved profile.

    Raises:
        RuntimeFailure: missing, or not a profile of this version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("version") != VERSION:
            raise RuntimeFailure(f"{path}: a profile of another version; run 'edgekit profile' again")
        made = Profile(**{**data, "reads": tuple(Reads(**r) for r in data["reads"])})
        rates = [made.stream, made.first_touch, *(r.bytes_per_second for r in made.reads), *made.kernels.values()]
        if not made.reads or not all(isinstance(r, (int, float)) and 0 < r < float("inf") for r in rates):
            raise ValueError("a rate is missing, or not above 0")
        if made.threads < 1 or any(r.size < 1 or r.depth < 1 for r in made.reads):
            raise ValueError("a count is below 1")
        return made
    except OSError as error:
        raise RuntimeFailure(f"{path}: no profile of this device; make one with 'edgekit profile'") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RuntimeFailure(f"{path}: not a profile; run 'edgekit profile' again") from error


def measure_reads(
    path: Path,
    size: int,
    depth: int,
    seconds: float,
    *,
    sequential: bool = False,
    once: bool = False,
    engine: str = "auto",
    threads: int = 16,
    seed: int = 1,
) -> native.ReadTest:
    """One test of reads; `threads` read where io_uring does not.

    Raises:
        RuntimeFailure: the file cannot be read that way.
    """
    test = native.ReadTest(
        io_engine=native.ENGINES[engine], depth=depth, threads=min(depth, threads), chunk_bytes=size,
        seconds=seconds, sequential=int(sequential), once=int(once), seed=seed,
    )  # fmt: skip
    error = native.Error()
    native.check(native.library().edgekit_measure_reads(str(path).encode(), c.byref(test), c.byref(error)), error)
    return test


def measure_stream(path: Path, seconds: float, *, once: bool = False) -> float:
    """Bytes per second of a file read as layers are streamed; `once`: from end to end, and no longer.

    Raises:
        RuntimeFailure: the file cannot be read that way.
    """
    test = measure_reads(
        path, STREAM_BYTES, STREAM_DEPTH, seconds, sequential=True, once=once, engine="threads", threads=STREAM_THREADS
    )
    return float(test.bytes / test.elapsed)


def measure_kernel(
    codec: str, bits: int, threads: int, seconds: float, cols: int = 4096, *, down: bool = False
) -> float:
    """Bytes of weights per second, of products with a vector or (`down`) of sums of rows."""
    test = native.KernelTest(
        bits=bits, cols=cols, threads=threads, codec=codec.encode(), seconds=seconds, down=int(down)
    )
    error = native.Error()
    native.check(native.library().edgekit_measure_kernel(c.byref(test), c.byref(error)), error)
    return float(test.bytes / test.elapsed)


def kernel_name(codec: str, bits: int, *, down: bool = False) -> str:
    """How a profile calls a kernel."""
    return (codec if codec.startswith(("f", "b")) else f"{codec}{bits}") + (".down" if down else "")


def profile(file: Path, threads: int, seconds: float, progress: Callable[[int, int], None]) -> Profile:
    """Measures this device on `file`, which should be large (1 GiB or more).

    Args:
        file: what to read; a bundle's flash.bin is what counts.
        threads: compute threads.
        seconds: of each of the tests, three of each.
        progress: called with (tests done, of all).
    """
    first = measure_stream(file, 30.0, once=True)
    total = len(SIZES) * len(DEPTHS) + 3 * 2 * len(KERNELS) + 1
    tests: dict[tuple[int, int], list[float]] = {}
    done = 0
    for at, depth in [(s, d) for s in SIZES for d in DEPTHS]:
        for seed in range(3):
            test = measure_reads(file, at, depth, seconds, seed=seed + 1)
            tests.setdefault((at, depth), []).append(test.bytes / test.elapsed)
        done += 1
        progress(done, total)
    again = [measure_stream(file, 3 * seconds) for _ in range(3)]
    done += 1
    # The best of rounds that lie apart: what else runs on the machine only slows a kernel down.
    kernels: dict[str, float] = {}
    for codec, bits, down in [(*kernel, d) for _ in range(3) for kernel in KERNELS for d in (False, True)]:
        name = kernel_name(codec, bits, down=down)
        rate = measure_kernel(codec, bits, threads, seconds, down=down)
        kernels[name] = max(rate, kernels.get(name, 0.0))
        done += 1
        progress(done, total)
    kernels |= {"bf16": kernels["f16"], "bf16.down": kernels["f16.down"]}
    return Profile(
        platform.platform(),
        threads,
        bool(test.direct),
        "uring" if test.uring else "threads",
        first,
        statistics.median(again),
        tuple(Reads(s, d, statistics.median(r)) for (s, d), r in tests.items()),
        kernels,
    )
