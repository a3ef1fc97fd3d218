"""What activations of 8 bits cost (KL divergence from f32 on one bundle) and gain (CPU time of one thread).

python -m benchmarks.activations kl CHECKPOINT q4 q8
python -m benchmarks.activations speed BUNDLE...

CPU time, as other processes disturb it less than the clock. f32 and int8 take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import edgekit
from benchmarks.quality import DATA
from edgekit.evaluate.comparison import log_softmax
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

TEXT = DATA / "text" / "tinystories_valid.jsonl"


def divergence(checkpoint: Path, recipe: str, documents: int) -> str:
    """A row of a table: mean and largest KL, share of the same first choices."""
    texts = [json.loads(line)["text"] for line in TEXT.read_text().splitlines()[:documents]]
    with tempfile.TemporaryDirectory() as scratch:
        bundle = edgekit.convert(checkpoint, Path(scratch) / "model", recipe=recipe).path
        with edgekit.load(bundle) as model:
            runs = [model.tokenizer.encode(text)[:400] for text in texts]
        options = [Options(activations=a, context=512, cache_type="f32") for a in ("int8", "f32")]
        total, largest, same, count = 0.0, 0.0, 0, 0
        with Session(bundle, options[0]) as rounded, Session(bundle, options[1]) as exact:
            for ids in runs:
                rounded.reset()
                exact.reset()
                got, want = log_softmax(rounded.logits(ids)), log_softmax(exact.logits(ids))
                kl = (np.exp(want) * (want - got)).sum(axis=-1)
                total, largest, count = total + float(kl.sum()), max(largest, float(kl.max())), count + len(kl)
                same += int((want.argmax(axis=1) == got.argmax(axis=1)).sum())
    return f"| {recipe} | {total / count:.5f} | {largest:.3f} | {same / count:.1%} | {count} |"


def speed(bundle: Path, repetitions: int) -> str:
    """A row of a table: tokens per second of CPU time with f32 and int8, alone, by four, and in a prompt of 128."""
    sessions = {a: Session(bundle, Options(activations=a, context=256, threads=1)) for a in ("f32", "int8")}
    ids = np.random.default_rng(1).integers(3, sessions["f32"].vocab_size, 192).tolist()
    passes = {
        "prompt": [ids[:128]],
        "four": [ids[i : i + 4] for i in range(128, 176, 4)],
        "one": [[i] for i in ids[176:]],
    }
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(repetitions):
        for name, session in sessions.items():
            session.reset()
            for kind, runs in passes.items():
                begin = time.process_time()
                for run in runs:
                    session.eval(run)
                count = sum(len(run) for run in runs)
                rates.setdefault((kind, name), []).append(count / (time.process_time() - begin))
    for session in sessions.values():
        session.close()
    cells = [
        ", ".join(f"{statistics.median(rates[kind, a]):.1f}" for a in sessions) for kind in ("one", "four", "prompt")
    ]
    return f"| {bundle.stem} | {' | '.join(cells)} |"


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--documents", type=int, default=100)
    cli.add_argument("--repetitions", type=int, default=7)
    cli.add_argument("question", choices=["kl", "speed"])
    cli.add_argument("paths", nargs="+", help="kl: a checkpoint, then recipes; speed: bundles")
    a = cli.parse_args()
    if a.question == "speed":
        print("\n".join(speed(Path(path), a.repetitions) for path in a.paths))
    else:
        print("\n".join(divergence(Path(a.paths[0]), recipe, a.documents) for recipe in a.paths[1:]))


if __name__ == "__main__":
    main()
