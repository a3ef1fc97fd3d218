"""Fuzzes the runtime until told to stop: python -m tests.fuzz.forever BUILD [TARGET [SECONDS]].

Targets and bundles take turns of `TURN` seconds. What is found lies in build/fuzz-found, what was learned in
build/fuzz-corpus; both stay for the next call. The end of it, also by Ctrl-C, is a table of executions.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT
from tests.fuzz import seeds

TURN = 120  # seconds
LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1")
EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")


def jobs(target: str | None) -> list[tuple[str, str]]:
    """Pairs of a target and the bundle that it works on, or "".

    Raises:
        SystemExit: there is no such target.
    """
    made = [("json", ""), ("manifest", "")]
    made += [(t, name) for name in seeds.BUNDLES for t in seeds.ON_BUNDLES]
    chosen = [job for job in made if target in (None, job[0])]
    if not chosen:
        raise SystemExit(f"no fuzz target '{target}'; there are {', '.join(sorted({t for t, _ in made}))}")
    return chosen


def fuzz(build: Path, folder: Path, target: str, bundle: str, seconds: int) -> tuple[int, bool]:
    """One turn of a target; returns its executions, and whether it found something."""
    corpus = ROOT / "build" / "fuzz-corpus" / target / bundle
    found = ROOT / "build" / "fuzz-found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    known = Path(__file__).parent / "corpus" / target
    command = [
        *("nice", "-n", "19", build / f"fuzz_{target}", *LIMITS, f"-max_total_time={seconds}"),
        *(f"-artifact_prefix={found / target}-{bundle}-", corpus, folder / "seeds" / target / bundle),
        *([known] if known.is_dir() else []),
    ]
    environment = {**os.environ, "EDGEKIT_FUZZ_BUNDLE": str(folder / "bundles" / bundle)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    counted = EXECUTIONS.search(done.stderr)
    if done.returncode != 0:
        print(done.stderr[-3000:], file=sys.stderr)
    return int(counted[1]) if counted else 0, done.returncode != 0


def main(build: Path, target: str | None = None, seconds: float = float("inf")) -> int:
    """Takes turns until the seconds are over; returns the exit status."""
    chosen = jobs(target)
    executions: Counter[str] = Counter()
    bad = False
    end = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp(prefix="edgekit-fuzz-"))
    try:
        seeds.make(folder, build)
        for kind, bundle in itertools.cycle(chosen):
            left = end - time.monotonic()
            if left < 1:
                break
            share = seconds / len(chosen) if seconds < TURN * len(chosen) else TURN
            count, hit = fuzz(build, folder, kind, bundle, max(1, int(min(left, share))))
            executions[kind] += count
            bad |= hit
            print(f"{kind} {bundle}: {count} executions{', something was found' if hit else ''}", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for kind, count in executions.items():
        print(f"{kind}: {count} executions in all")
    return 1 if bad else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    limit = float(words[2]) if len(words) > 2 else float("inf")
    sys.exit(main(Path(words[0]).resolve(), words[1] if len(words) > 1 and words[1] else None, limit))
