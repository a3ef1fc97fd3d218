"""python -m benchmarks.selection: what selections cost in quality, on trained models at half of their size.

The demo model, and stories260K and TinyStories-chat-3M after `edgekit relufy`; those are made here if
--work does not have them. Text: TinyStories (valid) for the comparison, TinyStories (train) for learning.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo_model" / "checkpoint"
RELUFIED = {  # name -> arguments of relufy beside text and output
    "stories260K": ["--steps", "1000", "--batch-size", "16", "--learning-rate", "1e-3", "--sparsity-weight", "0.05"],
    "tinystories-chat-3M": [
        "--steps",
        "400",
        "--batch-size",
        "8",
        "--learning-rate",
        "5e-4",
        "--sparsity-weight",
        "0.2",
    ],
}
PROMPT_SPARSITY = 0.5


def edgekit(*arguments: str) -> dict[str, Any]:
    """One command with JSON output."""
    done = subprocess.run([sys.executable, "-m", "edgekit", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def relufied(name: str, data: Path, work: Path) -> tuple[Path, dict[str, Any]]:
    """The sparse checkpoint, made if it is not there, and its report."""
    out = work / f"{name}-relu"
    if not out.exists():
        text = ["--text", str(data / "text" / "tinystories_train.jsonl")]
        held = ["--held-out", str(data / "text" / "tinystories_valid.jsonl")]
        edgekit("relufy", str(data / "models" / name), "-o", str(out), *text, *held, *RELUFIED[name], "--json")
    return out, json.loads((out / "relufy.json").read_text())


def rows(name: str, checkpoint: Path, data: Path, work: Path) -> list[str]:
    """A table row per selection, at half of the dense bundle's size."""
    lines = []
    text = data / "text" / "tinystories_train.jsonl"
    for layout, selections in (("bundle", ("all", "predicted", "prompt")), ("split", ("exact", "threshold"))):
        bundle = work / f"{name}-{layout}.edgekit"
        learn = ["--calibration", str(text), "--calibration-tokens", "16384"]
        predictor = ["--predictor"] if layout == "bundle" else []
        edgekit(
            "convert", str(checkpoint), "-o", str(bundle), "--recipe", "f16", "--layout", layout,
            *learn, *predictor, "--overwrite", "--json",
        )  # fmt: skip
        whole = edgekit("inspect", str(bundle), "--json")
        for select in selections:
            half = budget(bundle, whole["bytes"], select)
            valid = data / "text" / "tinystories_valid.jsonl"
            made = edgekit(
                "bench", str(bundle), "--ram", str(half), "--select", select, "--sparsity", str(PROMPT_SPARSITY),
                "--text", str(valid), "--text-tokens", "4000", "-p", "16", "-n", "100", "-o", "json",
            )  # fmt: skip
            r = made["rows"][0]
            lines.append(
                f"| {name} | {select} | {half / 2**20:.2f} | {r['tokens_per_second']:.0f} "
                f"| {r['bytes_read_per_token'] / 1024:.0f} | {r['selected_share']:.1%} | {r['window_hit_rate']:.0%} "
                f"| {r['kl']:.4f} | {r['top1']:.1%} | {r['perplexity']:.3f} | {r['dense_perplexity']:.3f} |"
            )
            print(lines[-1], file=sys.stderr)
    return lines


def budget(bundle: Path, weights: int, select: str) -> int:
    """Buffers and half of the weights, or the floor if that is more."""
    from edgekit.runtime.model import plan_bundle
    from edgekit.runtime.values import Options

    whole = plan_bundle(bundle, Options(context=256, select=select, batch=16))
    return max(whole.budget_bytes - weights // 2, whole.floor_bytes)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data")
    cli.add_argument("--work", type=Path, help="folder to keep and reuse the models in")
    cli.add_argument("--out", type=Path, default=Path("docs/results/selection.md"))
    a = cli.parse_args()
    lines = ["# Selections", "", *str(__doc__).splitlines()[2:], ""]
    with tempfile.TemporaryDirectory() as scratch:
        work = a.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        sources = {"demo": DEMO}
        lines += [
            "## Relufied",
            "",
            "| | original | ReLU, untuned | tuned | zeros per block |",
            "|---|---|---|---|---|",
        ]
        for name in RELUFIED:
            sources[f"{name} relufied"], r = relufied(name, a.data, work)
            zeros = " ".join(f"{s:.0%}" for s in r["after"]["sparsity"])
            figures = f"{r['original']:.3f} | {r['before']['perplexity']:.3f} | {r['after']['perplexity']:.3f}"
            lines.append(f"| {name} ({r['steps']} steps, {r['seconds']:.0f} s) | {figures} | {zeros} |")
        head = ("model", "selection", "budget MiB", "tok/s", "KiB read", "selected", "hits", "KL", "same first choice")
        lines += ["", "## Selections at half of the weights", ""]
        lines += [f"| {' | '.join(head)} | perplexity | dense |", "|---" * (len(head) + 2) + "|"]
        for name, checkpoint in sources.items():
            lines += rows(name, checkpoint, a.data, work)
    text = "\n".join(lines) + "\n"
    a.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
