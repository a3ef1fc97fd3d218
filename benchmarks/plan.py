"""python -m benchmarks.plan PROFILE JOB...: what `edgekit plan` says beside what is measured.

A job is BUNDLE:SELECTION:BUDGET[,BUDGET...]. Runs are those of benchmarks.decode, without a limit, page
cache dropped. The profile is one of this machine (edgekit profile); as its flash and its processor (others use both)
wander by a factor of two within minutes, each pair is run three times, the rates that its plan rests on are measured
before, between and after, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import limits
from edgekit.bundle import manifest
from edgekit.plan import device
from edgekit.plan.device import Profile, Reads
from edgekit.plan.predict import Prediction, predict
from edgekit.runtime.values import Options
from edgekit.sizes import parse_bytes

CONTEXT = 160
RUNS = 3


def measure(bundle: Path, ram: int, select: str, tokens: int) -> tuple[float, float]:
    """Tokens per second and MiB read per token."""
    limits.drop_cache(bundle)
    options = {"ram": ram, "select": select, "context": CONTEXT, "batch": 16}
    job = {"bundle": str(bundle), "options": options, "warm": tokens, "tokens": tokens}
    done = subprocess.run([sys.executable, "-m", "benchmarks.decode", json.dumps(job)], capture_output=True, check=True)
    found = json.loads(done.stdout)
    return found["tokens_per_second"], found["generation_bytes_read"] / 2**20


def rates(bundle: Path, unit: int, threads: int) -> dict[str, float]:
    """Bytes per second, now: of streaming, of random reads of a unit, 128 under way, and of the bundle's kernels."""
    stream = device.measure_stream(bundle / "flash.bin", 0.5)
    reads = device.measure_reads(bundle / "flash.bin", unit, 128, 0.5)
    out = {"stream": stream, "reads": reads.bytes / reads.elapsed}
    codecs = {(p["codec"], p["bits"]) for m in manifest.read(bundle).data["matrices"] for p in m["parts"]}
    for codec, bits in sorted(codecs):
        for down in (False, True):
            rate = device.measure_kernel(codec, bits, threads, 0.3, down=down)
            out[device.kernel_name(codec, bits, down=down)] = rate
    return out


def at_rates(profile: Profile, unit: int, measured: list[dict[str, float]]) -> Profile:
    """The profile with the medians of those in place of its own."""
    now = {name: statistics.median(m[name] for m in measured) for name in measured[0]}
    reads = (Reads(unit, 128, now.pop("reads")),)
    return replace(profile, stream=now.pop("stream"), reads=reads, kernels={**profile.kernels, **now})


def compare(bundle: Path, ram: int, select: str, tokens: int, profile: Profile) -> tuple[Prediction, float, float]:
    """The plan, and medians of tokens per second and of MiB read per token."""
    matrices = manifest.read(bundle).data["matrices"]
    unit = min(m["unit_stride"] for m in matrices if m["file"] == "flash.bin")
    measured, speeds, reads = [rates(bundle, unit, profile.threads)], [], []
    for _ in range(RUNS):
        speed, read = measure(bundle, ram, select, tokens)
        speeds.append(speed)
        reads.append(read)
        measured.append(rates(bundle, unit, profile.threads))
    said = predict(
        bundle, Options(ram=ram, context=CONTEXT, batch=16, select=select), at_rates(profile, unit, measured)
    )
    return said, statistics.median(speeds), statistics.median(reads)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("profile", type=Path)
    cli.add_argument("jobs", nargs="+")
    cli.add_argument("--tokens", type=int, default=48)
    cli.add_argument("--out", type=Path, default=Path("docs/results/plan.md"))
    a = cli.parse_args()
    profile = device.load(a.profile)
    lines = ["# The plan and the truth", "", *str(__doc__).splitlines()[2:], ""]
    lines += [
        "| bundle | selection | budget MiB | planned tok/s | measured | off | planned MiB read | measured | why |"
    ]
    lines += ["|---" * 9 + "|"]
    off = []
    for job in a.jobs:
        path, select, budgets = job.rsplit(":", 2)
        for budget in budgets.split(","):
            ram = parse_bytes(budget)
            said, speed, read = compare(Path(path), ram, select, a.tokens, profile)
            off.append(said.tokens_per_second / speed - 1)
            name = f"{Path(path).parent.name}/{Path(path).stem}"
            lines.append(
                f"| {name} | {said.plan.select} | {ram / 2**20:.0f} | {said.tokens_per_second:.2f} | {speed:.2f} "
                f"| {off[-1]:+.0%} | {said.bytes_per_token / 2**20:.0f} | {read:.0f} | {said.why[-1]} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    within = sum(abs(o) <= 0.15 for o in off)
    lines += ["", f"{within} of {len(off)} within 15%, median |off| {statistics.median(map(abs, off)):.0%}."]
    a.out.write_text("\n".join(lines) + "\n")
    print(lines[-1])


if __name__ == "__main__":
    main()
