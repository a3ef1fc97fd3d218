"""python -m benchmarks: speed and memory of the 1.1B shape, beside llama.cpp, in one run.

Prints Markdown and writes it to --out. Machines are noisy and hosts cache disk reads below the guest,
so every figure is a median, compared within this run only, and the reads' bandwidth is measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import limits, llamacpp
from benchmarks.synthetic import LLAMA_1B, make_checkpoint
from edgekit.plan import device

PROMPT = "Once upon a time there was a little girl who loved to play outside in the park with her friends."
MIB = 1 << 20
OVERHEAD = 60 * MIB  # the interpreter, tokenizer and libraries, beside the runtime's budget
ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}


def edgekit(*arguments: str, limit: int | None = None) -> tuple[limits.Limited, dict[str, Any]]:
    """One edgekit command with --json."""
    done = limits.run_limited([sys.executable, "-m", "edgekit", *arguments, "--json"], limit, ONE_BLAS_THREAD)
    return done, json.loads(done.stdout) if done.returncode == 0 else {}


def generate(bundle: Path, tokens: int, *more: str, limit: int | None = None) -> tuple[limits.Limited, dict[str, Any]]:
    """A greedy run that does not stop early."""
    options = ["-p", PROMPT, "-n", str(tokens), "--temp", "0", "--ignore-eos", *more]
    return edgekit("run", str(bundle), *options, limit=limit)


def convert_table(work: Path) -> list[str]:
    rows = ["| recipe | time | peak memory | size | bits per weight |", "|---|---|---|---|---|"]
    for recipe in ("palette4", "q4"):
        command = [sys.executable, "-c", CONVERT, str(work / "checkpoint"), str(work / recipe), recipe]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, **ONE_BLAS_THREAD}
        )
        seconds, peak, size, bits = json.loads(done.stdout)
        rows.append(f"| {recipe} | {seconds:.1f} s | {peak / MIB:.0f} MiB | {size / MIB:.0f} MiB | {bits:.2f} |")
    return rows


CONVERT = """
import json, sys
from edgekit.conversion import convert
from edgekit.runtime.model import process_peak_bytes
done = convert(*sys.argv[1:4])
print(json.dumps([done.seconds, process_peak_bytes(), done.bundle_bytes, done.bits_per_weight]))
"""


def resident_table(work: Path, python: str, tokens: int, repeats: int) -> list[str]:
    """Interleaved runs, so that a change of the machine's mood meets everyone."""
    speeds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeats):
        for recipe in ("palette4", "q4"):
            _, r = generate(work / f"{recipe}.edgekit", tokens)
            speeds.setdefault(f"edgekit {recipe}", []).append((r["prompt_tokens_per_second"], r["tokens_per_second"]))
        if llamacpp.available(python):
            _, p = llamacpp.run(python, work / "peer.gguf", tokens, repack=True)
            speeds.setdefault("llama.cpp Q4_0", []).append((p["prompt"], p["generation"]))
    medians = {k: tuple(statistics.median(x) for x in zip(*v, strict=True)) for k, v in speeds.items()}
    base = medians.get("llama.cpp Q4_0")
    rows = ["| | prompt tok/s | generation tok/s | of llama.cpp |", "|---|---|---|---|"]
    for name, (p, g) in medians.items():
        share = f"{g / base[1]:.2f}" if base else "not installed"
        rows.append(f"| {name} | {p:.1f} | {g:.1f} | {share} |")
    return rows


def limited_table(work: Path, python: str, tokens: int) -> list[str]:
    """At 60% of the bundle's size: tok/s beside its bound and beside llama.cpp on the mapped file."""
    bundle = work / "palette4.edgekit"
    size = sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file())
    limit = size * 6 // 10
    rows = [
        f"Limit {limit / MIB:.0f} MiB (bundle {size / MIB:.0f} MiB), page cache dropped before each run. The bound is "
        "the rate at which the file is read as layers are streamed, and nothing computed, the better of right before "
        "and right after the run, over the bytes that a token needs from flash.",
        "",
        "| | flash | generation tok/s | bound tok/s | reached | peak in the group | outcome |",
        "|---|---|---|---|---|---|---|",
    ]
    for touch in ("first", "second", "third"):
        before = device.measure_stream(bundle / "flash.bin", 2.0)
        limits.drop_cache(bundle)
        done, r = generate(bundle, tokens, "--ram", str(limit - OVERHEAD), limit=limit)
        bandwidth = max(before, device.measure_stream(bundle / "flash.bin", 2.0))
        if not r:
            rows.append(
                f"| edgekit palette4, {touch} run | | - | - | - | {done.peak / MIB:.0f} MiB | {outcome(done)} |"
            )
            continue
        bound = bandwidth / r["bytes_read_per_token"]
        speed = r["tokens_per_second"]
        reads = f"{r['io']}, {r['bytes_read_per_token'] / MIB:.0f} MiB per token"
        rows.append(
            f"| edgekit palette4, {touch} run ({reads}) | {bandwidth / 1e9:.2f} GB/s | {speed:.2f} "
            f"| {bound:.2f} | {speed / bound:.0%} "
            f"| {done.peak / MIB:.0f} MiB | {len(r['token_ids'])} tokens |"
        )
    for repack, name in ((False, "llama.cpp Q4_0, mmap, no repack"), (True, "llama.cpp Q4_0, default")):
        if llamacpp.available(python):
            limits.drop_cache(work / "peer.gguf")
            done, p = llamacpp.run(python, work / "peer.gguf", max(4, tokens // 8), repack=repack, limit=limit)
            speed = f"{p['generation']:.2f}" if p else "-"
            rows.append(f"| {name} | | {speed} | | | {done.peak / MIB:.0f} MiB | {outcome(done)} |")
    return rows


def outcome(done: limits.Limited) -> str:
    if done.killed:
        return "killed by the kernel"
    return "finished" if done.returncode == 0 else done.stderr.strip().splitlines()[-1][:80]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--work", type=Path, help="folder to keep and reuse the models in (4 GB)")
    cli.add_argument("--out", type=Path, default=Path("docs/results/benchmarks.md"))
    cli.add_argument("--peer-python", default=sys.executable, help="interpreter with llama-cpp-python and gguf")
    cli.add_argument("--tokens", type=int, default=64)
    cli.add_argument("--repeats", type=int, default=3)
    a = cli.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = a.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "checkpoint").exists():
            make_checkpoint(work / "checkpoint")
        if llamacpp.available(a.peer_python):
            llamacpp.make(a.peer_python, work / "peer.gguf", LLAMA_1B)
        for recipe in ("palette4", "q4"):
            subprocess.run(["rm", "-rf", str(work / f"{recipe}.edgekit")], check=True)
        lines = [
            "# Benchmarks",
            "",
            f"Made by `python -m benchmarks` on {platform.machine()} Linux with {os.cpu_count()} cores; shape of "
            f"TinyLlama 1.1B (hidden 2048, FFN 5632, 22 layers, 32 heads / 4 KV, vocabulary 32000), random weights, "
            f"{a.tokens} tokens, medians of {a.repeats}. Compare within a table only.",
            "",
            "## Converting (f16 checkpoint, 2.2 GB)",
            "",
            *convert_table(work),
            "",
            "## All weights resident",
            "",
            *resident_table(work, a.peer_python, a.tokens, a.repeats),
            "",
            "## Under a memory limit enforced by the kernel (cgroup)",
            "",
            *(
                limited_table(work, a.peer_python, a.tokens)
                if limits.available()
                else ["Needs root for memory groups."]
            ),
        ]
    text = "\n".join(lines) + "\n"
    a.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
