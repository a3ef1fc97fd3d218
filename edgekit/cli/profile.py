"""edgekit profile"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import click

from edgekit.cli.common import json_option, print_json, progress_bar, quiet_option


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

    `plan`, `run` and `bench` then say what to expect.

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
        print_json({"path": str(path), **asdict(made)})
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


def _show(path: Path, made: object) -> None:
    from edgekit.plan.device import DEPTHS, SIZES, Profile

    assert isinstance(made, Profile)
    mode = "past the page cache" if made.direct else "through the page cache"
    click.echo(f"{path}: reads by {made.engine}, {mode}")
    click.echo(f"  first touch {made.first_touch / 1e6:.0f} MB/s, streaming {made.stream / 1e6:.0f} MB/s")
    click.echo("  random reads, MB/s by size and depth")
    click.echo("  " + " " * 9 + "".join(f"{d:>8}" for d in DEPTHS))
    rate = {(r.size, r.depth): r.bytes_per_second for r in made.reads}
    for size in SIZES:
        click.echo(f"  {size >> 10:>5} KiB" + "".join(f"{rate[size, d] / 1e6:>8.0f}" for d in DEPTHS))
    click.echo("  kernels, GB/s of weights: " + ", ".join(f"{k} {v / 1e9:.1f}" for k, v in made.kernels.items()))
