"""python -m benchmarks.warm: bytes that a run's first tokens read, with a window that begins empty and with --warm.

The demo model, greedy texts behind the beginnings of held-out documents; counts are learned from other documents.

    python -m benchmarks.warm --learn train.jsonl --text held-out.jsonl --out docs/results/warm.md
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.synthetic import DEMO
from edgekit.calibrate.activity import documents
from edgekit.conversion import convert
from edgekit.generate.loop import TextModel
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling

MARKS = (4, 16, 64)
LEARNED, PROMPTS, PROMPT = 6, 8, 12  # texts, texts, tokens
SHARES = (0.5, 0.7, 0.9, 1.0)
INTRODUCTION = """# Warm starts

`edgekit run --warm FILE` keeps what the window learned: how often each unit was used, halved with every run. The
next run counts a quarter of that beside its own uses, and so knows from its first token on which units to keep. It
reads no units ahead for it. The text is the same (tests/runtime/test_warm.py).

"""
READING = """
Shares are of the weights, beside the buffers. Where the window holds a good part of what a token needs, the first
tokens read less; where it holds next to nothing, or the prompt has filled it with what the text needs, counts
change little. On the demo model's split layout a unit holds several neurons and nearly every unit is used by nearly
every token, so that there is little to learn.

Tried and left out, on one text: reading the units with the highest counts into the window at the start, and letting
the prompt's pass keep only those. Both read up to 13% more in the first 8 tokens under predicted selection, as they
took the place of what the prompt itself uses. The full counts instead of a quarter were up to 3% worse, a twentieth
up to 4%.
"""


def texts(model: Path, path: Path, count: int) -> list[list[int]]:
    """Beginnings of documents, as tokens."""
    with TextModel(model) as opened:
        found = [opened.tokenizer.encode(text)[:PROMPT] for text in documents((path,))]
    return [ids for ids in found if len(ids) == PROMPT][:count]


def read_bytes(bundle: Path, options: Options, prompt: list[int], warm: Path | None) -> tuple[list[int], list[int]]:
    """Bytes read for the first tokens, for each of MARKS, and the tokens."""
    with Session(bundle, options) as session:
        if warm is not None:
            session.model.load_warm(warm)
        session.eval(prompt)
        begin, out, tokens = session.stats.bytes_read, [], []
        for i in range(max(MARKS) + 1):
            if i - 1 in MARKS:
                out.append(session.stats.bytes_read - begin)
            tokens.append(session.next(Sampling(temperature=0)))
        return [*out, session.stats.bytes_read - begin][: len(MARKS)], tokens


def rows(bundle: Path, select: str, learned: list[list[int]], prompts: list[list[int]], work: Path) -> list[str]:
    """Lines of the table for one bundle and selection."""
    lines = []
    for share in SHARES:
        plan = plan_bundle(bundle, Options(context=200, select=select))
        ram = int(plan.floor_bytes + share * plan.weight_bytes)
        options = Options(ram=ram, context=200, select=select)
        warm = work / f"warm-{bundle.name}-{share}"
        for prompt in learned:
            with Session(bundle, options) as session:
                window = session.plan.window_bytes
                session.eval(prompt)
                for _ in range(100):
                    session.next(Sampling(temperature=0))
                session.model.save_warm(warm)
        cold = [read_bytes(bundle, options, prompt, None) for prompt in prompts]
        after = [read_bytes(bundle, options, prompt, warm) for prompt in prompts]
        assert [tokens for _, tokens in cold] == [tokens for _, tokens in after], "a text has changed"
        sums = [[sum(read[i] for read, _ in found) for i in range(len(MARKS))] for found in (cold, after)]
        each = len(prompts) * 1024
        cells = [f"{a / each:.0f} → {b / each:.0f} ({b / a - 1:+.1%})" for a, b in zip(*sums, strict=True)]
        lines.append(f"| {select} | {share:.0%} | {window / 1024:.0f} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measures, prints and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learn", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--predicted", type=Path, help="The demo model with predictors; made if not given, in minutes.")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        split = convert(DEMO, work / "split", "q4", layout="split").path
        predicted = given.predicted
        if predicted is None:
            from edgekit.calibrate.calibration import Calibration

            learn = Calibration((given.learn,), predictor=True)
            predicted = convert(DEMO, work / "predicted", "q4", layout="bundle", calibration=learn).path
        learned, prompts = texts(split, given.learn, LEARNED), texts(split, given.text, PROMPTS)
        lines = [
            f"KiB read for the first tokens behind a prompt of {PROMPT}, cold → warm; the mean of {PROMPTS} texts,"
        ]
        lines += [f"after {LEARNED} other texts of 100 tokens; weights of 4 bits:", ""]
        marks = " | ".join(f"{n} tokens" for n in MARKS)
        lines += [f"| selection | budget | window KiB | {marks} |", "|---" * (3 + len(MARKS)) + "|"]
        lines += rows(split, "exact", learned, prompts, work) + rows(predicted, "predicted", learned, prompts, work)
    text = INTRODUCTION + "\n".join(lines) + "\n" + READING
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
