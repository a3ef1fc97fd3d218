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
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit.cores import usable_cores
from edgekit.errors import RuntimeFailure
from edgekit.files import write_atomically
from edgekit.plan.load import LoadMeter, load_average
from edgekit.runtime import native
from edgekit.runtime.model import kernel_sets

SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
DEPTHS = (1, 8, 32, 128)
STREAM_BYTES, STREAM_DEPTH, STREAM_THREADS = 1 << 20, 32, 4  # how the runtime streams layers
KERNELS = (
    ("f32", 32), ("f16", 16),
    *(("affine", bits) for bits in (8, 6, 5, 4, 3, 2)),
    *(("palette", bits) for bits in (8, 6, 5, 4, 3, 2, 1)),
    *(("scaled_palette", bits) for bits in (8, 6, 5, 4, 3, 2, 1)),
    *(("trellis", bits) for bits in (4, 3, 2)),
)  # fmt: skip
ROUNDED = ("affine", "scaled_palette")  # whose products may have activations of 8 bits
ROUNDS = 3  # of every test
VERSION = 5
# Beyond these a machine was not idle enough for its rates to be believed. An idle one of 2 cores shows spreads of a few
# per cent; a virtual one up to a fifth.
MOST_OTHERS, MOST_SPREAD = 0.1, 0.25


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
        kernels: bytes of weights per second, by codec and bits ("palette4"), with f32 activations where others are the
            default ("affine4.f32"), and in sums of rows ("palette4.down").
        kernel_set: that computed them.
        made: when, seconds since 1970.
        spread: of the repetitions of a test, the difference between the fastest and the slowest as a share of the
            fastest; the median of all tests.
        load_average: runnable tasks in the minute before; None where the system does not count them.
        cores: that this process may use.
        others: share of the machine's processor time that other processes used meanwhile; None as above.
    """

    machine: str
    threads: int
    direct: bool
    engine: str
    first_touch: float
    stream: float
    reads: tuple[Reads, ...]
    kernels: dict[str, float] = field(default_factory=dict)
    kernel_set: str = ""
    made: float = 0.0
    spread: float = 0.0
    load_average: float | None = None
    cores: int = 1
    others: float | None = None
    version: int = VERSION

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the rates may be too low, in words; empty if the machine was idle and the tests agreed."""
        lines = []
        if self.others is not None and self.others > MOST_OTHERS:
            lines.append(f"other processes used {self.others:.0%} of the processors")
        if self.load_average is not None and self.load_average > max(1, self.cores):
            lines.append(f"the load was {self.load_average:.1f} on {self.cores} cores")
        if self.spread > MOST_SPREAD:
            lines.append(f"repeated tests differed by {self.spread:.0%}")
        return tuple(lines)

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
        _check(made)
        return made
    except OSError as error:
        raise RuntimeFailure(f"{path}: no profile of this device; make one with 'edgekit profile'") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RuntimeFailure(f"{path}: not a profile; run 'edgekit profile' again") from error


def _check(made: Profile) -> None:
    """Raises ValueError where a profile holds what none can hold: its file may be torn, or made by hand."""
    texts = (made.machine, made.engine, made.kernel_set, *made.kernels)
    if not all(isinstance(v, str) for v in texts) or not isinstance(made.direct, bool):
        raise ValueError("a name is no text")
    counts = (made.threads, made.cores, *(n for r in made.reads for n in (r.size, r.depth)))
    if not all(_is_number(v, int) and 1 <= v < 1 << 48 for v in counts):
        raise ValueError("a count is no whole number above 0")
    rates = (made.stream, made.first_touch, *(r.bytes_per_second for r in made.reads), *made.kernels.values())
    if not made.reads or not all(_is_number(v) and 0 < v < 1e30 for v in rates):
        raise ValueError("a rate is missing, or not above 0")
    state = [made.made, made.spread, *(v for v in (made.load_average, made.others) if v is not None)]
    if not all(_is_number(v) and 0 <= v < 1e30 for v in state):
        raise ValueError("a figure of the machine's state is none")


def _is_number(value: object, kind: Any = (int, float)) -> bool:
    """Whether a value is of a kind of number; true and false are none, whatever Python says."""
    return isinstance(value, kind) and not isinstance(value, bool)


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
        io_engine=native.IO_ENGINES[engine], depth=depth, threads=min(depth, threads), chunk_bytes=size,
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
    codec: str,
    bits: int,
    threads: int,
    seconds: float,
    cols: int = 4096,
    *,
    down: bool = False,
    activations: str = "auto",
) -> float:
    """Bytes of weights per second, of products with a vector or (`down`) of sums of rows."""
    test = native.KernelTest(
        bits=bits,
        cols=cols,
        threads=threads,
        codec=codec.encode(),
        seconds=seconds,
        down=int(down),
        activations=native.ACTIVATIONS[activations],
    )
    error = native.Error()
    native.check(native.library().edgekit_measure_kernel(c.byref(test), c.byref(error)), error)
    return float(test.bytes / test.elapsed)


def kernel_name(codec: str, bits: int, *, down: bool = False, activations: str = "auto") -> str:
    """How a profile calls a kernel."""
    name = codec if codec.startswith(("f", "b")) else f"{codec}{bits}"
    if down:
        return name + ".down"
    return name + (".f32" if activations == "f32" and codec in ROUNDED else "")


def _kernel_tests() -> list[tuple[str, int, bool, str]]:
    """(codec, bits, whether rows are added up, activations) of all kernels that are measured."""
    sums = [(codec, bits, down, "auto") for codec, bits in KERNELS for down in (False, True)]
    return sums + [(codec, bits, False, "f32") for codec, bits in KERNELS if codec in ROUNDED]


def profile(file: Path, threads: int, seconds: float, progress: Callable[[int, int], None]) -> Profile:
    """Measures this device on `file`, which should be large (1 GiB or more).

    Args:
        file: what to read; a bundle's flash.bin is what counts.
        threads: compute threads.
        seconds: of each of the tests, which are repeated `ROUNDS` times.
        progress: called with (tests done, of all).
    """
    meter, busy = LoadMeter(), load_average()
    first = measure_stream(file, 30.0, once=True)
    total = len(SIZES) * len(DEPTHS) + ROUNDS * len(_kernel_tests()) + 1
    tests: dict[tuple[int, int], list[float]] = {}
    done = 0
    for at, depth in [(s, d) for s in SIZES for d in DEPTHS]:
        for seed in range(ROUNDS):
            test = measure_reads(file, at, depth, seconds, seed=seed + 1)
            tests.setdefault((at, depth), []).append(test.bytes / test.elapsed)
        done += 1
        progress(done, total)
    again = [measure_stream(file, 3 * seconds) for _ in range(ROUNDS)]
    done += 1
    kernels: dict[str, list[float]] = {}
    for codec, bits, down, activations in ROUNDS * _kernel_tests():
        rate = measure_kernel(codec, bits, threads, seconds, down=down, activations=activations)
        kernels.setdefault(kernel_name(codec, bits, down=down, activations=activations), []).append(rate)
        done += 1
        progress(done, total)
    # The best of rounds that lie apart: what else runs on the machine only slows a kernel down.
    best = {name: max(rates) for name, rates in kernels.items()}
    return Profile(
        platform.platform(),
        threads,
        bool(test.direct),
        "uring" if test.uring else "threads",
        first,
        statistics.median(again),
        tuple(Reads(s, d, statistics.median(r)) for (s, d), r in tests.items()),
        best | {"bf16": best["f16"], "bf16.down": best["f16.down"]},
        kernel_set=kernel_sets()[0],
        made=time.time(),
        spread=spread([again, *tests.values(), *kernels.values()]),
        load_average=busy,
        cores=usable_cores(),
        others=meter.others(),
    )


def spread(tests: Sequence[Sequence[float]]) -> float:
    """By how much repetitions of a test differ, as a share of the best; the median over tests."""
    return statistics.median((max(rates) - min(rates)) / max(rates) for rates in tests)
