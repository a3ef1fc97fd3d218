"""python -m benchmarks.plan PROFILE JOB...: what `edgekit plan` says beside what is measured.

A job is BUNDLE:SELECTION:BUDGET[,BUDGET...]. Runs are those of benchmarks.decode, without a limit, page
cache dropped; the profile is made right before (edgekit profile --file BUNDLE/flash.bin -o PROFILE).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import limits
from edgekit.plan import device
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
            said = predict(Path(path), Options(ram=ram, context=CONTEXT, batch=16, select=select), profile)
            speed, read = measure(Path(path), ram, select, a.tokens)
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
