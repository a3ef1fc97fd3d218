"""python -m benchmarks.cache: what keys and values of fewer bits cost in quality, and save and cost besides.

Quality is that of the demo model on held-out text, beside a cache of 32 bits. Time is the processor's for one token,
with one thread, at several lengths of the text, for a model of the 1.1B shape with two layers; interleaved, medians.

    python -m benchmarks.cache --text held-out.jsonl --out docs/results/cache.md
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.synthetic import DEMO, LLAMA_1B, make_checkpoint
from edgekit.calibrate.activity import documents, token_runs
from edgekit.conversion import convert
from edgekit.evaluate.comparison import compare
from edgekit.generate.loop import TextModel
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

TYPES = ("f32", "f16", "q8", "q4")
LENGTHS = (64, 1024, 4096)
REPEATS, STEPS = 5, 8
LAYERS = 2
INTRODUCTION = """# Keys and values of fewer bits

`--cache-type` chooses what the KV cache holds: `f16`, `f32`, `q8` (8 bits, and a scale of 16 for every 32 values) or
`q4` (4 bits, the same scales; heads are multiplied by a Hadamard matrix first, which spreads outliers over the head).

"""


def quality(bundle: Path, text: Path, tokens: int) -> list[str]:
    """Lines of the table of quality."""
    lines = ["| type | bits per value | perplexity | change | KL, mean | KL, 99% | same first choice |"]
    lines += ["|---|---|---|---|---|---|---|"]
    options = Options(cache_type="f32")
    with TextModel(bundle, options) as best:
        runs = token_runs(best.tokenizer, documents((text,)), tokens, best.plan.context)
        whole = plan_bundle(bundle, options).kv_bytes
        for kind in TYPES:
            with TextModel(bundle, replace(options, cache_type=kind)) as model:
                found = compare(
                    model.session, best.session, runs, sum(map(len, runs)), lambda _: 1, lambda done, total: None
                )
            assert found.against_perplexity is not None
            change = found.perplexity / found.against_perplexity - 1
            bits = 32 * plan_bundle(bundle, replace(options, cache_type=kind)).kv_bytes / whole
            distance = f"{found.kl:.5f} | {found.kl_99:.4f} | {found.top1:.2%}"
            lines.append(f"| {kind} | {bits:.1f} | {found.perplexity:.4f} | {change:+.2%} | {distance} |")
    return lines


def times(bundle: Path) -> list[str]:
    """Lines of the table of times."""
    ids = np.random.default_rng(0).integers(3, 4000, max(LENGTHS)).tolist()
    lines = ["| type | " + " | ".join(f"{n} tokens" for n in LENGTHS) + " |", "|---" * (len(LENGTHS) + 1) + "|"]
    found: dict[tuple[str, int], list[float]] = {}
    options = Options(context=max(LENGTHS) + STEPS, threads=1)
    sessions = {kind: Session(bundle, replace(options, cache_type=kind)) for kind in TYPES}
    for length in LENGTHS:
        for session in sessions.values():
            done = min(session.position, length)
            session.rewind(done - done % 64)  # the steps that were measured are no text
            session.eval(ids[session.position : length])
        for _ in range(REPEATS):
            for kind, session in sessions.items():
                session.rewind(length)
                begin = time.process_time()
                for i in range(STEPS):
                    session.eval([5 + i])
                found.setdefault((kind, length), []).append((time.process_time() - begin) / STEPS)
    for kind, session in sessions.items():
        session.close()
        cells = [f"{1000 * statistics.median(found[kind, length]):.2f}" for length in LENGTHS]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measures, prints and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=7000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo = convert(DEMO, Path(folder) / "demo", "f16").path
        shape = {**LLAMA_1B, "num_hidden_layers": LAYERS, "vocab_size": 8192, "max_position_embeddings": 8192}
        make_checkpoint(Path(folder) / "checkpoint", shape)
        large = convert(Path(folder) / "checkpoint", Path(folder) / "large", "q4").path
        lines = [f"The demo model (weights of 16 bits) on {given.tokens} tokens of held-out text:", ""]
        lines += quality(demo, given.text, given.tokens)
        lines += ["", f"Milliseconds of the processor for a token, {LAYERS} layers of the 1.1B shape, one thread:", ""]
        lines += times(large)
    text = INTRODUCTION + "\n".join(lines) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
