"""python -m benchmarks.quality: what each recipe costs in perplexity, on trained models.

Held-out TinyStories, document by document; needs ../shared/data. Writes docs/results/quality.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import edgekit
from edgekit.evaluate import perplexity
from edgekit.recipe import preset_names

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
MODELS = {
    "demo model": ROOT / "examples" / "demo_model" / "checkpoint",
    "stories260K": DATA / "models" / "stories260K",
}


def table(checkpoint: Path, documents: list[str]) -> list[str]:
    """One row per preset: size, perplexity, and the ratio to f32."""
    rows = ["| recipe | bits per weight | perplexity | of f32 | bits per byte |", "|---|---|---|---|---|"]
    base = 0.0
    for recipe in preset_names():
        with tempfile.TemporaryDirectory() as scratch:
            done = edgekit.convert(checkpoint, Path(scratch) / "model", recipe=recipe)
            with edgekit.load(done.path) as model:
                found = perplexity(model, documents)
        base = base or found.perplexity
        rows.append(
            f"| {recipe} | {done.bits_per_weight:.2f} | {found.perplexity:.3f} | {found.perplexity / base:.3f} "
            f"| {found.bits_per_byte:.4f} |"
        )
    return rows


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "quality.md")
    cli.add_argument("--documents", type=int, default=200)
    a = cli.parse_args()
    lines = (DATA / "text" / "tinystories_valid.jsonl").read_text().splitlines()[: a.documents]
    documents = [json.loads(line)["text"] for line in lines]
    text = [
        "# Quality",
        "",
        f"Made by `python -m benchmarks.quality`: {a.documents} held-out TinyStories documents.",
        "",
    ]
    text += [
        "Bits per weight count everything: scales, tables, padding to units; on models this small, padding is much.",
        "",
    ]
    for name, checkpoint in MODELS.items():
        text += [f"## {name}", "", *table(checkpoint, documents), ""]
    a.out.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
