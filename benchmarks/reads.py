"""python -m benchmarks.reads FILE: the runtime's reads beside fio's, in one run.

Both read the same file (give it 1 GiB or more) past the page cache at random places, or from the beginning on as
layers are streamed. They take turns, three each; figures are medians, the share is the median of the pairs.
Needs fio (apt-get install fio), and huge pages for its buffers as ours have them, which double the rate of large
reads (echo 160 > /proc/sys/vm/nr_hugepages, and back afterwards).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from edgekit.plan import device

SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
DEPTHS = (32, 128)
ROUNDS = 3


def fio(file: Path, size: int, depth: int, seconds: float, *, sequential: bool, threads: int) -> float:
    """Bytes per second that fio reaches; with `threads` of them, or through io_uring."""
    how = ["--ioengine=psync", "--thread", f"--numjobs={threads}"] if threads else ["--ioengine=io_uring"]
    command = [
        "fio", "--name=read", f"--filename={file}", f"--rw={'read' if sequential else 'randread'}", f"--bs={size}",
        f"--iodepth={depth}", "--direct=1", "--norandommap", "--readonly", "--mem=shmhuge", "--time_based",
        f"--runtime={seconds}", "--group_reporting", "--output-format=json", *how,
    ]  # fmt: skip
    if sequential:
        command.append(f"--offset_increment={100 // max(1, threads)}%")  # each thread has a part of the file
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"fio failed; has it huge pages? {(done.stderr + done.stdout).strip()[-200:]}")
    told = done.stdout[done.stdout.index("{") :]  # notes may come before it
    return float(json.loads(told)["jobs"][0]["read"]["bw_bytes"])


def row(file: Path, size: int, depth: int, seconds: float, *, sequential: bool, threads: int) -> str:
    """A line of the table."""
    peer, ours = [], []
    for seed in range(ROUNDS):
        peer.append(fio(file, size, depth, seconds, sequential=sequential, threads=threads))
        test = device.measure_reads(
            file,
            size,
            depth,
            seconds,
            sequential=sequential,
            engine="threads" if threads else "auto",
            threads=threads or 16,
            seed=seed + 1,
        )
        ours.append(test.bytes / test.elapsed)
    share = statistics.median(o / p for o, p in zip(ours, peer, strict=True))
    engine = "threads" if not test.uring else "io_uring"
    order = "in order" if sequential else "random"
    return (
        f"| {engine} | {order} | {size >> 10} | {depth} | {statistics.median(peer) / 1e6:.0f} "
        f"| {statistics.median(ours) / 1e6:.0f} | {share:.0%} |"
    )


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("file", type=Path)
    cli.add_argument("--seconds", type=int, default=2, help="of each test")
    cli.add_argument("--out", type=Path, default=Path("docs/results/reads.md"))
    a = cli.parse_args()
    if shutil.which("fio") is None:
        sys.exit("benchmarks.reads needs fio (apt-get install fio)")
    jobs = [(s, d, False, 0) for s in SIZES for d in DEPTHS] + [(s, 32, False, 16) for s in SIZES[:3]]
    jobs += [(device.STREAM_BYTES, device.STREAM_DEPTH, True, device.STREAM_THREADS)]
    lines = ["# Reads", "", *str(__doc__).splitlines()[2:], ""]
    lines += ["| engine | order | KiB | under way | fio MB/s | edgekit MB/s | of fio |", "|---" * 7 + "|"]
    for s, d, sequential, threads in jobs:
        lines.append(row(a.file, s, d, a.seconds, sequential=sequential, threads=threads))
        print(lines[-1], file=sys.stderr, flush=True)
    a.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
