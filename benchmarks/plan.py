"""python -m benchmarks.plan PROFILE JOB...: what `edgekit plan` says beside what is measured.

A job is BUNDLE:SELECTION:BUDGET[,BUDGET...]. Runs are those of benchmarks.decode, without a limit, page
cache dropped. The profile is one of this machine (edgekit profile); as its flash wanders by a factor of two
within minutes, the reads that a plan rests on are measured again right before and right after each run,
and the plan gets their mean.
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
from edgekit.plan.predict import predict
from edgekit.runtime import Options, parse_bytes

CONTEXT = 160


def measure(bundle: Path, ram: int, select: str, tokens: int) -> tuple[float, float]:
    """Tokens per second and MiB read per token."""
    limits.drop_cache(bundle)
    options = {"ram": ram, "select": select, "context": CONTEXT, "batch": 16}
    job = {"bundle": str(bundle), "options": options, "warm": tokens, "tokens": tokens}
    done = subprocess.run([sys.executable, "-m", "benchmarks.decode", json.dumps(job)], capture_output=True, check=True)
    found = json.loads(done.stdout)
    return found["tokens_per_second"], found["generation_bytes_read"] / 2**20


def rates(bundle: Path, unit: int) -> tuple[float, float]:
    """Bytes per second of streaming, and of random reads of a unit, 128 under way: now."""
    stream = device.measure_reads(bundle / "flash.bin", *device.STREAM, 0.7, sequential=True)
    reads = device.measure_reads(bundle / "flash.bin", unit, 128, 0.7)
    return stream.bytes / stream.elapsed, reads.bytes / reads.elapsed


def at_rates(profile: Profile, unit: int, before: tuple[float, float], after: tuple[float, float]) -> Profile:
    """The profile with those in place of its own."""
    stream, reads = ((b + a) / 2 for b, a in zip(before, after, strict=True))
    return replace(profile, stream=stream, reads=(Reads(unit, 128, reads),))


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("profile", type=Path)
    cli.add_argument("jobs", nargs="+")
    cli.add_argument("--tokens", type=int, default=48)
    cli.add_argument("--out", type=Path, default=Path("docs/plan.md"))
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
            bundle = Path(path)
            matrices = manifest.read(bundle).data["matrices"]
            unit = min(m["unit_stride"] for m in matrices if m["file"] == "flash.bin")
            before = rates(bundle, unit)
            speed, read = measure(bundle, ram, select, a.tokens)
            now = at_rates(profile, unit, before, rates(bundle, unit))
            said = predict(bundle, Options(ram=ram, context=CONTEXT, batch=16, select=select), now)
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
