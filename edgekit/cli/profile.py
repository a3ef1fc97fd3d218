"""edgekit profile"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.common import json_option, print_json, progress_bar, quiet_option

if TYPE_CHECKING:
    from edgekit.plan.corrections import Corrections
    from edgekit.plan.device import Profile


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--file", type=click.Path(path_type=Path), help="A large file of this device, such as a bundle's flash.bin."
)
@click.option("--size", default="1G", show_default=True, help="Without --file: how large a file to write for it.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Where to keep the profile.")
@click.option("-t", "--threads", type=click.IntRange(1, 256), help="Compute threads.  [default: all cores]")
@click.option("--seconds", type=float, default=0.2, show_default=True, help="Of each test.")
@json_option
@quiet_option
def command(
    file: Path | None, size: str, out: Path | None, threads: int | None, seconds: float, as_json: bool, quiet: bool
) -> None:
    """Measure this device: reads by size and depth, first touch and repeated; kernels.

    `plan`, `run` and `bench` then say what to expect; each `run` and `bench` corrects the rates by what it saw.
    The machine should be idle: tests are repeated, and what else ran is told and kept.

    \b
    Examples:
      edgekit profile
      edgekit profile --file model.edgekit/flash.bin
    """
    from edgekit.cores import usable_cores
    from edgekit.plan import device
    from edgekit.sizes import parse_bytes

    path = out or device.default_path()
    with progress_bar("measuring", quiet or as_json) as progress, tempfile.TemporaryDirectory(dir=".") as scratch:
        target = file or _make(Path(scratch) / "profile.bin", parse_bytes(size))
        made = device.profile(target, threads or usable_cores(), seconds, progress)
    made.save(path)
    if as_json:
        print_json({"path": str(path), **asdict(made), "doubts": made.doubts})
    elif not quiet:
        _show(path, made)


def _make(path: Path, size: int) -> Path:
    """A file of random bytes, on the disk and out of the page cache."""
    import os

    from edgekit.errors import RuntimeFailure

    block = os.urandom(1 << 20)
    try:
        with path.open("wb") as file:
            for _ in range(max(1, size >> 20)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise RuntimeFailure(f"{path}: cannot write: {error.strerror}; free some space or give --file") from error
    return path


def profile_figures(path: Path, made: Profile, corrections: Corrections) -> dict[str, Any]:
    """Where a plan's rates come from, as values for a report."""
    return {
        "path": str(path),
        "age_seconds": round(max(0.0, time.time() - made.made)),
        "doubts": made.doubts,
        "runs": corrections.runs,
        "compute_factor": round(corrections.compute, 4),
        "read_factor": round(corrections.read, 4),
    }


def profile_lines(made: Profile, corrections: Corrections) -> list[str]:
    """Where a plan's rates come from, for people."""
    runs = "no run corrected it yet"
    if corrections.runs:
        count = "1 run" if corrections.runs == 1 else f"{corrections.runs} runs"
        runs = f"{count} corrected it: arithmetic takes {corrections.compute:.2f} x, reads {corrections.read:.2f} x"
    lines = [f"profile     {age(time.time() - made.made)} old, {runs}"]
    if made.doubts:
        lines.append(f"            made on a busy machine ({'; '.join(made.doubts)}), so its rates may be too low")
    return lines


def age(seconds: float) -> str:
    """A time for people, in its largest unit."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} seconds"


def _show(path: Path, made: Profile) -> None:
    from edgekit.plan.device import DEPTHS, SIZES

    mode = "past the page cache" if made.direct else "through the page cache"
    click.echo(f"{path}: reads by {made.engine}, {mode}")
    click.echo(f"  first touch {made.first_touch / 1e6:.0f} MB/s, streaming {made.stream / 1e6:.0f} MB/s")
    click.echo("  random reads, MB/s by size and depth")
    click.echo("  " + " " * 9 + "".join(f"{d:>8}" for d in DEPTHS))
    rate = {(r.size, r.depth): r.bytes_per_second for r in made.reads}
    for size in SIZES:
        click.echo(f"  {size >> 10:>5} KiB" + "".join(f"{rate[size, d] / 1e6:>8.0f}" for d in DEPTHS))
    click.echo("  kernels, GB/s of weights: " + ", ".join(f"{k} {v / 1e9:.1f}" for k, v in made.kernels.items()))
    click.echo(f"  repeated tests differed by {made.spread:.0%}")
    if made.doubts:
        click.echo(
            f"edgekit: warning: the machine was busy: {'; '.join(made.doubts)}. The rates may be too low; run "
            "'edgekit profile' again when it is idle. Until then runs correct them.",
            err=True,
        )
