"""python -m benchmarks.quality: how far codecs and solvers take trained models from the original, beside llama.cpp's.

Every matrix is coded, embeddings included. Held-out TinyStories; Hessians come from other documents.
Needs ../shared/data. Writes docs/results/quality.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import edgekit
from edgekit.calibrate.calibration import Calibration
from edgekit.evaluate.comparison import Comparison, compare
from edgekit.generate.tokenizer import Tokenizer
from edgekit.inspect import inspect_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
MODELS = {
    "demo model": ROOT / "examples" / "demo_model" / "checkpoint",
    "stories260K": DATA / "models" / "stories260K",
}
CODECS = [
    *(("scaled_palette", bits, "group_size = 64") for bits in (8, 6, 5, 4, 3, 2)),
    *(("trellis", bits, "") for bits in (4, 3, 2)),
    *(("affine", bits, "group_size = 64") for bits in (8, 6, 5, 4, 3, 2)),
    *(("palette", bits, "group_size = 32") for bits in (8, 6, 4, 3, 2)),
]
FEEDBACK = {"trellis": "ldlq"}  # the solver with text; gptq for all others
PEERS = ("Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q4_K", "Q4_0", "IQ4_NL", "Q3_K", "IQ3_S", "Q2_K", "IQ2_S")
WHOLE = 256  # columns of a block of llama.cpp's K and IQ types but IQ4_NL


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    solver: str
    bits: float
    file_bits: float | None
    found: Comparison


@dataclass(frozen=True)
class Bench:
    """One model: its checkpoint, the bundle of the original in f32, and what is read."""

    checkpoint: Path
    original: Path
    runs: list[list[int]]
    tokenizer: Tokenizer
    text: Calibration
    scratch: Path

    def measured(self, bundle: Path) -> Comparison:
        """A bundle against the original."""
        total = sum(len(r) for r in self.runs)
        with Session(bundle, Options(activations="f32")) as model, Session(self.original, Options()) as original:
            return compare(model, original, self.runs, total, self._size, lambda done, total: None)

    def _size(self, ids: list[int]) -> int:
        return len(self.tokenizer.decode(list(ids)).encode())

    def ours(self) -> Iterator[Row]:
        """Every codec, chosen without and with text."""
        for method, bits, options in CODECS:
            for solver in (None, FEEDBACK.get(method, "gptq")):
                recipe = self.scratch / "recipe.toml"
                said = f'solver = "{solver}"\n' if solver else ""
                recipe.write_text(f'[[tensors]]\nmatch = "*"\nmethod = "{method}"\nbits = {bits}\n{options}\n{said}')
                text = self.text if solver else None
                done = edgekit.convert(self.checkpoint, self.scratch / "made", recipe, calibration=text, overwrite=True)
                about = inspect_bundle(done.path)
                yield Row(
                    f"{method} {bits}", solver or "without text", about["coded_bits_per_weight"],
                    about["bits_per_weight"], self.measured(done.path),
                )  # fmt: skip

    def peers(self, python: str) -> Iterator[Row]:
        """llama.cpp's types: weights through its own quantization and back."""
        file = next(self.checkpoint.glob("*.safetensors"))
        tensors = {k: v.astype(np.float32) for k, v in load_file(file).items()}
        matrices = {k: v for k, v in tensors.items() if v.ndim == 2}
        given, made = self.scratch / "given.npz", self.scratch / "back.npz"
        np.savez(given, **matrices)
        for kind in PEERS:
            widths = {v.shape[1] for v in matrices.values()}
            block = 32 if kind in ("Q8_0", "Q5_0", "Q4_0", "IQ4_NL") else WHOLE
            if any(w % block for w in widths):
                continue
            command = [python, str(Path(__file__).with_name("peer_quantize.py")), str(given), str(made), kind]
            bits = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
            folder = self.scratch / "peer"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.checkpoint, folder)
            with np.load(made) as back:
                save_file({**tensors, **{k: back[k] for k in back.files}}, folder / file.name)
            done = edgekit.convert(folder, self.scratch / "peer-f32", "f32", overwrite=True)
            yield Row(f"llama.cpp {kind}", "without text", bits, None, self.measured(done.path))


def table(rows: list[Row]) -> list[str]:
    """Rows by bits, most first."""
    out = [
        "| codec | values chosen by | bits | of the file | KL | KL 99% | first choice | perplexity |",
        "|---" * 8 + "|",
    ]
    for r in sorted(rows, key=lambda r: (-r.bits, r.found.kl or 0)):
        f, file = r.found, "-" if r.file_bits is None else f"{r.file_bits:.2f}"
        out.append(
            f"| {r.name} | {r.solver} | {r.bits:.3f} | {file} | {f.kl:.5f} | {f.kl_99:.4f} | {f.top1:.2%} "
            f"| {f.perplexity:.3f} |"
        )
    return out


def bench(name: str, documents: int, tokens: int, scratch: Path) -> Bench:
    """What is needed to measure a model."""
    checkpoint = MODELS[name]
    original = edgekit.convert(checkpoint, scratch / "original", "f32").path
    tokenizer = Tokenizer(original / "tokenizer")
    lines = (DATA / "text" / "tinystories_valid.jsonl").read_text().splitlines()[:documents]
    runs = [tokenizer.encode(json.loads(line)["text"]) for line in lines]
    text = Calibration((DATA / "text" / "tinystories_train.jsonl",), tokens=tokens)
    return Bench(checkpoint, original, runs, tokenizer, text, scratch)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "quality.md")
    cli.add_argument("--documents", type=int, default=60)
    cli.add_argument("--calibration-tokens", type=int, default=40000)
    cli.add_argument("--peer-python", help="Python with llama-cpp-python and gguf, for the rows of llama.cpp")
    cli.add_argument("--model", choices=list(MODELS), action="append")
    a = cli.parse_args()
    text = [
        "# Quality", "",
        f"Made by `python -m benchmarks.quality`: {a.documents} held-out TinyStories documents, {a.calibration_tokens} "
        "tokens of others for the solvers that learn from text.", "",
        "Every matrix is coded. `bits` counts codes, scales and tables per weight; `of the file` everything, also "
        "padding to units, which is much on models this small. KL is the divergence from the f32 original in nats per "
        "token, `first choice` the share of tokens where both prefer the same. llama.cpp's types are what its own "
        "library makes of the same weights, without an importance matrix; types whose blocks do not divide the "
        "model's widths are left out.", "",
    ]  # fmt: skip
    for name in a.model or MODELS:
        with tempfile.TemporaryDirectory() as folder:
            measured = bench(name, a.documents, a.calibration_tokens, Path(folder))
            rows = [*measured.ours(), *(measured.peers(a.peer_python) if a.peer_python else ())]
        text += [f"## {name}", "", *table(rows), ""]
        a.out.write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
