"""python -m benchmarks.kv: what KV policies and cache types cost at equal memory.

Three questions: how far is each from a cache that keeps everything, on long stories; does the model still use a name
that a story told once, near its beginning, its middle or its end; what do 32k positions take in memory and time.

    python -m benchmarks.kv --text held-out.jsonl --out docs/results/kv.md
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.synthetic import DEMO, LLAMA_1B, make_checkpoint
from edgekit.calibrate.activity import documents
from edgekit.conversion import convert
from edgekit.evaluate.comparison import compare, log_softmax
from edgekit.generate.loop import TextModel
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

BATCH = 8  # a small one, so that a ring has few rows beyond its window
NAMES = ("Lily", "Tom", "Ben", "Sam", "Max", "Anna", "Tim", "Mia")
DEPTHS = {"beginning": 0.0, "middle": 0.5, "end": 0.9}
# Of a few forms tried, the one in which the demo model uses a name most: this small one answers no direct question.
NEEDLE, QUESTION = "There was a little girl named {}.", 'Mom was happy. She said, "I love you,'
LONG, STEPS, REPEATS = 32768, 8, 5
LENGTHS = (4096, 16384, LONG - 512)
INTRODUCTION = """# What the KV cache keeps

Policies (`--kv-policy`) and cache types (`--cache-type`) at equal memory. "Kept" are the first tokens and the latest
ones. Each `sinks` has the largest window whose cache takes no more bytes than the full cache of fewer bits above it;
the last two take half of `q4`. A ring has 31 rows beyond its window, so that a session can go back; they count.

"""
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Contender:
    """A policy and a cache type, and the bytes that they take."""

    options: Options
    kv_bytes: int

    @property
    def label(self) -> str:
        """Its first cells in a table."""
        o = self.options
        kept = "every token" if o.kv_policy == "full" else f"{o.kv_sinks} and {o.kv_window}"
        return f"{o.kv_policy}, {o.cache_type} | {kept}"


def windowed(bundle: Path, options: Options, sinks: int, most_bytes: int) -> Contender:
    """The policy `sinks` with the largest window whose cache fits in `most_bytes`.

    Raises:
        ValueError: not even a window of one token fits.
    """

    def of(window: int) -> Contender:
        chosen = replace(options, kv_policy="sinks", kv_sinks=sinks, kv_window=window)
        return Contender(chosen, plan_bundle(bundle, chosen).kv_bytes)

    low, high = 1, plan_bundle(bundle, options).context
    if of(low).kv_bytes > most_bytes:
        raise ValueError(f"no window fits in {most_bytes} bytes")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if of(middle).kv_bytes <= most_bytes else (low, middle - 1)
    return of(low)


def contenders(bundle: Path, context: int) -> list[Contender]:
    """Everything kept in each type, and windows that take no more than a smaller type of everything."""

    def full(kind: str) -> Contender:
        options = Options(context=context, cache_type=kind, batch=BATCH)
        return Contender(options, plan_bundle(bundle, options).kv_bytes)

    out = [full("f16")]
    q8, q4 = full("q8"), full("q4")
    for limit, rivals in ((q8, ("f16",)), (q4, ("f16", "q8"))):
        out.append(limit)
        out += [windowed(bundle, full(rival).options, 4, limit.kv_bytes) for rival in rivals]
    return out + [windowed(bundle, full(rival).options, 4, q4.kv_bytes // 2) for rival in ("q8", "q4")]


def long_stories(tokenizer: Tokenizer, text: Path, context: int, tokens: int) -> list[list[int]]:
    """Token ids of held-out texts that fill at least 60% of the context, about `tokens` in all."""
    runs: list[list[int]] = []
    for story in documents((text,)):
        ids = tokenizer.encode(story)[:context]
        if len(ids) >= 0.6 * context:
            runs.append(ids)
        if sum(map(len, runs)) >= tokens:
            break
    if not runs:
        raise SystemExit(f"{text}: no text fills 60% of a context of {context} tokens; give another --text")
    return runs


def quality(bundle: Path, found: Sequence[Contender], text: Path, tokens: int) -> list[str]:
    """Lines of the table of distances from a full cache of 32 bits."""
    lines = ["| policy | kept | KiB | perplexity | change | KL, mean | KL, 99% | same first choice |", "|---" * 8 + "|"]
    with TextModel(bundle, replace(found[0].options, cache_type="f32")) as best:
        runs = long_stories(best.tokenizer, text, best.plan.context, tokens)
        for one in found:
            with TextModel(bundle, one.options) as model:
                r = compare(model.session, best.session, runs, sum(map(len, runs)), lambda _: 1, lambda a, b: None)
            assert r.against_perplexity is not None
            cells = f"{r.perplexity:.4f} | {r.perplexity / r.against_perplexity - 1:+.2%} | {r.kl:.5f} | {r.kl_99:.4f}"
            lines.append(f"| {one.label} | {one.kv_bytes // 1024} | {cells} | {r.top1:.2%} |")
    return [f"{len(runs)} stories, {sum(map(len, runs))} tokens:", "", *lines]


def haystacks(tokenizer: Tokenizer, text: Path, length: int, count: int) -> Iterator[list[str]]:
    """Sentences of held-out texts without any of the names, `length` tokens in each list."""
    sentences: list[str] = []
    for story in documents((text,)):
        for part in story.replace("\n", " ").split(". "):
            if not any(name in part for name in (*NAMES, "named")):
                sentences.append(part.strip(' ."') + ".")
        if len(tokenizer.encode(" ".join(sentences))) >= length:
            while len(tokenizer.encode(" ".join(sentences))) > length:
                sentences.pop()
            yield sentences
            sentences, count = [], count - 1
            if count == 0:
                return


def name_scores(session: Session, tokenizer: Tokenizer, hay: Sequence[str], depth: float) -> F64:
    """Log-probability [told, asked] of each name after a story that told one of them."""
    out = np.zeros((len(NAMES), len(NAMES)))
    at = int(depth * len(hay))
    for told, name in enumerate(NAMES):
        prompt = " ".join([*hay[:at], NEEDLE.format(name), *hay[at:], QUESTION])
        ids = tokenizer.encode(prompt)
        session.reset()
        first = session.logits(ids)[-1:]
        for asked, candidate in enumerate(NAMES):
            answer = tokenizer.encode(f"{prompt} {candidate}")[len(ids) :]
            rows = first if len(answer) == 1 else np.concatenate([first, session.logits(answer[:-1])])
            out[told, asked] = log_softmax(rows)[np.arange(len(answer)), answer].sum()
            session.rewind(len(ids))
    return out


def gained(scores: F64) -> tuple[float, float]:
    """Nats that a name gains by being told, beside the stories that told another, and how often the told one gains
    most of all."""
    n = len(scores)
    others = (scores.sum(0) - scores) / (n - 1)
    gain = scores - others
    return float(np.diag(gain).mean()), float((gain.argmax(1) == np.arange(n)).mean())


def needles(bundle: Path, found: Sequence[Contender], text: Path, length: int, count: int) -> list[str]:
    """Lines of the table of names."""
    lines = ["| policy | kept | KiB | " + " | ".join(DEPTHS) + " |", "|---" * (3 + len(DEPTHS)) + "|"]
    for one in found:
        cells = []
        with TextModel(bundle, one.options) as model:
            hays = list(haystacks(model.tokenizer, text, length, count))
            for depth in DEPTHS.values():
                pairs = [gained(name_scores(model.session, model.tokenizer, hay, depth)) for hay in hays]
                gain, share = np.mean(pairs, axis=0)
                cells.append(f"{gain:.2f}, {share:.0%}")
        lines.append(f"| {one.label} | {one.kv_bytes // 1024} | " + " | ".join(cells) + " |")
    return lines


def long_texts(bundle: Path, shape: dict[str, Any]) -> Iterator[str]:
    """Lines of the tables of memory and time at 32k positions."""
    base = Options(context=LONG, threads=1, batch=256)
    chosen = [replace(base, cache_type=kind) for kind in ("f16", "q8", "q4")]
    chosen += [replace(o, kv_policy="sinks", kv_sinks=4, kv_window=2048) for o in chosen]
    ids = np.random.default_rng(0).integers(3, shape["vocab_size"], LONG).tolist()
    yield "| policy | kept | KV, MiB | least memory, MiB | " + " | ".join(f"{n} tokens" for n in LENGTHS) + " |"
    yield "|---" * (4 + len(LENGTHS)) + "|"
    for options in chosen:
        plan = plan_bundle(bundle, options)
        cells = [f"{plan.kv_bytes / 2**20:.1f}", f"{plan.floor_bytes / 2**20:.1f}"]
        with Session(bundle, options) as session:
            for length in LENGTHS:
                session.eval(ids[session.position : length])
                took = []
                for _ in range(REPEATS):
                    begin = time.process_time()
                    for i in range(STEPS):
                        session.eval([5 + i])
                    took.append((time.process_time() - begin) / STEPS)
                    session.rewind(length)
                cells.append(f"{1000 * statistics.median(took):.2f}")
        yield f"| {Contender(options, plan.kv_bytes).label} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measures, prints and writes the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=7000)
    parser.add_argument("--context", type=int, default=256, help="Beyond 320 the demo model itself is poor.")
    parser.add_argument("--haystack", type=int, default=150, help="Tokens around the needle.")
    parser.add_argument("--haystacks", type=int, default=4)
    parser.add_argument("--skip-long", action="store_true", help="Leave out the 32k positions.")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        demo = convert(DEMO, Path(folder) / "demo", "f16").path
        found = contenders(demo, given.context)
        lines = ["## Distance from a full cache of 32 bits", "", *quality(demo, found, given.text, given.tokens)]
        lines += ["", "## A name told once", ""]
        lines += needles(demo, found, given.text, given.haystack, given.haystacks)
        if not given.skip_long:
            sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1}
            shape = {**LLAMA_1B, **sizes, "num_hidden_layers": 1, "vocab_size": 2048, "max_position_embeddings": LONG}
            make_checkpoint(Path(folder) / "checkpoint", shape)
            small = convert(Path(folder) / "checkpoint", Path(folder) / "small", "q4").path
            lines += ["", "## 32k positions", "", *long_texts(small, shape)]
    text = INTRODUCTION + "\n".join(lines) + "\n"
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
