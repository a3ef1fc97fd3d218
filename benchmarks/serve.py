"""python -m benchmarks.serve: what several clients get together, when their sessions share passes and when they do not.

Prints Markdown and writes it to --out. Rounds as the server has them (edgekit/serve/step.py), without HTTP.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.synthetic import DEMO, LLAMA_1B, make_checkpoint
from edgekit.conversion import convert
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from edgekit.serve.step import Work, step

MIB = 1 << 20
CLIENTS = (1, 4, 8)
GREEDY = Sampling(temperature=0)
SMALL = {
    **LLAMA_1B,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "vocab_size": 8192,
}

Round = Callable[[Sequence[Session]], None]


def one_by_one(sessions: Sequence[Session]) -> None:
    """A round in which each session has passes of its own."""
    for session in sessions:
        session.next(GREEDY)


def together(sessions: Sequence[Session]) -> None:
    """A round in which the sessions share one pass."""
    step([Work(session, sampling=GREEDY) for session in sessions])


def measure(sessions: Sequence[Session], run: Round, rounds: int) -> tuple[float, float]:
    """Tokens a second of all sessions together, and bytes read per token."""
    for session in sessions:
        session.rewind(8)
        session.eval([5])
    run(sessions)
    run(sessions)
    read, begin = sessions[0].stats.bytes_read, time.monotonic()
    for _ in range(rounds):
        run(sessions)
    tokens = rounds * len(sessions)
    return tokens / (time.monotonic() - begin), (sessions[0].stats.bytes_read - read) / tokens


def table(title: str, bundle: Path, ram: int | None, rounds: int) -> str:
    """One model under one budget, by the number of clients."""
    lines = [f"{title}", ""]
    lines += ["| clients | tok/s one by one | tok/s together | ratio | KiB/token one by one | KiB/token together |"]
    lines += ["|---|---|---|---|---|---|"]
    options = Options(ram=ram, context=128, sessions=max(CLIENTS), select="all")
    rng = np.random.default_rng(1)
    with Model(bundle, options) as model:
        sessions = [model.create_session() for _ in range(max(CLIENTS))]
        for session in sessions:
            session.eval(rng.integers(3, model.vocab_size, 16).tolist())
        for clients in CLIENTS:
            runs = [[measure(sessions[:clients], r, rounds) for r in (one_by_one, together)] for _ in range(3)]
            alone, shared = ([run[i] for run in runs] for i in (0, 1))
            speed = [statistics.median(speed for speed, _ in found) for found in (alone, shared)]
            read = [statistics.median(read for _, read in found) / 1024 for found in (alone, shared)]
            ratio = statistics.median(b[0] / a[0] for a, b in zip(alone, shared, strict=True))
            lines.append(
                f"| {clients} | {speed[0]:.1f} | {speed[1]:.1f} | {ratio:.2f} | {read[0]:.0f} | {read[1]:.0f} |"
            )
    return "\n".join(lines) + "\n"


def half(bundle: Path) -> int:
    """A budget under which half of the weights are streamed."""
    plan = plan_bundle(bundle, Options(context=128, sessions=max(CLIENTS), select="all"))
    return plan.floor_bytes + plan.weight_bytes // 2


def main() -> None:
    """Makes the bundles, measures, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo = convert(DEMO, Path(folder) / "demo", "q4").path
        make_checkpoint(Path(folder) / "checkpoint", SMALL)
        large = convert(Path(folder) / "checkpoint", Path(folder) / "large", "q4").path
        size = plan_bundle(large, Options(context=128)).weight_bytes / MIB
        ram = half(large)
        parts = [
            table("The demo model at 4 bits, resident.", demo, None, 40),
            table(f"Random weights at 4 bits, {size:.0f} MiB, resident.", large, None, 6),
            table(f"The same under {ram / MIB:.0f} MiB for all, the rest streamed.", large, ram, 6),
        ]
    text = "\n".join(parts)
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
