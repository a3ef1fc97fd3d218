"""python -m benchmarks.speculation: tokens guessed and checked several in one pass (docs/design/0002-flash.md).

First a trained model whose weights are streamed, under one budget for it and for what guesses: what is accepted, and
what it saves. Then a full-size model of random weights, whose text nobody can guess: what a pass over several tokens
takes beside one over a single token, which says what accepted guesses are worth there. --work: a folder of
`python -m benchmarks`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import limits
from edgekit.conversion import convert
from edgekit.generate.loop import TextModel
from edgekit.generate.speculate import open_with_draft
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling

DEMO = Path(__file__).parents[1] / "examples" / "demo_model" / "checkpoint"
PROMPTS = ("Once upon a time", "Tom and his dog", "The little bird was sad because", "One day, Mia found a")
TOKENS = 120
COUNTS = (1, 2, 3, 4, 5, 7, 9, 13)


def generate(model: TextModel, temperature: float) -> list[int]:
    """The tokens of all prompts."""
    sampling = Sampling(temperature=temperature, seed=7)
    return [p.token for prompt in PROMPTS for p in model.generate(prompt, TOKENS, sampling, ignore_eos=True)]


def trained(work: Path) -> list[str]:
    """A row per way to draft."""
    bundles = {r: convert(DEMO, work / f"{r}.edgekit", r).path for r in ("f16", "palette4", "palette2")}
    size = sum(f.stat().st_size for f in bundles["f16"].rglob("*") if f.is_file())
    ram = int(size * 0.75)
    lines = [
        f"The demo model at 16 bits ({size / 2**20:.1f} MiB), {ram / 2**20:.1f} MiB for all, prompts of stories.",
        "",
        "| drafts from | sampling | tok/s | drafted | accepted | tokens per pass | KiB read per token | same text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ways = {"none": None, "from the text": None, "2-bit palettes": "palette2", "4-bit palettes": "palette4"}
    for temperature, sampling in ((0.0, "greedy"), (0.8, "0.8")):
        plain: list[int] = []
        for way, draft in ways.items():
            drafting = Options(ram=ram, context=160, select="all", draft_tokens=0 if way == "none" else 8)
            opened = (
                open_with_draft(bundles["f16"], bundles[draft], drafting)
                if draft
                else TextModel(bundles["f16"], drafting)
            )
            with opened as model:
                begin = time.monotonic()
                tokens = generate(model, temperature)
                seconds, s = time.monotonic() - begin, model.stats
            plain = plain or tokens
            same = sum(a == b for a, b in zip(tokens, plain, strict=True)) / len(plain)
            lines.append(
                f"| {way} | {sampling} | {len(tokens) / seconds:.0f} | {s.drafted_tokens} | {s.accepted_tokens} "
                f"| {s.generated_tokens / (s.generated_tokens - s.accepted_tokens):.2f} "
                f"| {s.generation_bytes_read / s.generated_tokens / 1024:.0f} | {same:.0%} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return lines


def passes(bundle: Path, ram: int | None) -> list[float]:
    """Milliseconds of a pass over COUNTS random tokens, medians of five."""
    limits.drop_cache(bundle)
    rng = np.random.default_rng(0)
    with Session(bundle, Options(ram=ram, context=512, batch=32, select="all", draft_tokens=16)) as session:
        session.eval(rng.integers(3, session.vocab_size, 16).tolist())
        taken: list[list[float]] = [[] for _ in COUNTS]
        for _ in range(5):
            for times, count in zip(taken, COUNTS, strict=True):
                ids = rng.integers(3, session.vocab_size, count).tolist()
                begin = time.monotonic()
                session.logits(ids)
                times.append(1e3 * (time.monotonic() - begin))
                session.rewind(16)
    return [statistics.median(t) for t in taken]


def full_size(bundle: Path) -> list[str]:
    """A row per budget."""
    size = sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file())
    lines = [
        f"{bundle.stem}, {size / 2**20:.0f} MiB: milliseconds of a pass, by its tokens.",
        "",
        "| budget MiB | " + " | ".join(map(str, COUNTS)) + " |",
        "|---" * (len(COUNTS) + 1) + "|",
    ]
    for share in (None, 0.6, 0.5, 0.25):
        ram = None if share is None else int(size * share)
        taken = " | ".join(f"{t:.0f}" for t in passes(bundle, ram))
        lines.append(f"| {'all' if ram is None else round(ram / 2**20)} | {taken} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--work", type=Path, help="with palette4.edgekit of the 1.1B shape")
    cli.add_argument("--out", type=Path, default=Path("docs/results/speculation.md"))
    a = cli.parse_args()
    lines = ["# Guessing ahead", "", *str(__doc__).splitlines()[2:], ""]
    with tempfile.TemporaryDirectory() as scratch:
        lines += [*trained(Path(scratch)), ""]
    if a.work is not None:
        lines += full_size(a.work / "palette4.edgekit")
    a.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
