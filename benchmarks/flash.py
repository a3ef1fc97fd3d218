"""python -m benchmarks.flash: the ladder of "LLM in a flash" (arXiv 2312.11514, table 2), in one run.

Half of the model in memory, under a limit that the kernel enforces, page cache dropped before each row.
Every row is one change more than the row above. "wait" is the time per token that computing waited for
flash; the bound is what the row could reach if the device did its reads at the rates measured right
before it, and computing went at the rate of the kernels, one hidden behind the other where the row
overlaps them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import limits, llamacpp, planted
from edgekit.arch import describe
from edgekit.bundle import manifest
from edgekit.bundle.layout import Arrangement, plan_layout
from edgekit.bundle.writer import Writer
from edgekit.calibrate.calibration import apply, extend
from edgekit.checkpoint import open_checkpoint
from edgekit.jobs import Threads
from edgekit.plan import device
from edgekit.recipe import load_recipe
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options

MIB = 1 << 20
OVERHEAD = 64 * MIB  # interpreter and libraries, beside the runtime's budget
BASE = {"context": 160, "batch": 16}
OFF = {"lookahead": False}
PEER_CONFIG = {"rms_norm_eps": 1e-5, "tie_word_embeddings": False}
SHAPES = {"opt": planted.OPT_7B, "llama": planted.LLAMA_7B, "moe": planted.MOE_7B}


@dataclasses.dataclass(frozen=True)
class Row:
    """A rung: the layout it needs and the options that make it."""

    name: str
    layout: str
    options: dict[str, Any]
    naive: bool = False  # nothing but buffers in memory


LADDER = (
    Row("naive: everything is read", "bundle", {"select": "all"}, naive=True),
    Row("hybrid: half stays in memory", "bundle", {"select": "all"}),
    Row("+ predictor", "split", {"select": "predicted", "window": 0, **OFF}),
    Row("+ windowing, k = 5", "split", {"select": "predicted", "window": 5, **OFF}),
    Row("+ bundling", "bundle", {"select": "predicted", "window": 5, **OFF}),
    Row("edgekit: + aged uses, look ahead", "bundle", {"select": "predicted"}),
)


# A mixture's router has chosen before anything is read: what there is to win is keeping experts.
MIXTURE = (
    Row("naive: every chosen expert is read", "bundle", {"select": "router", "window": 0, **OFF}, naive=True),
    Row("half in memory, experts of the last token", "bundle", {"select": "router", "window": 1, **OFF}),
    Row("experts of the last 5 tokens", "bundle", {"select": "router", "window": 5, **OFF}),
    Row("edgekit: aged uses", "bundle", {"select": "router", **OFF}),
    Row("edgekit: + look ahead", "bundle", {"select": "router"}),
)


def build(shape: planted.Shape, work: Path, recipe: str, layout: str) -> Path:
    """A bundle of the shape, made if it is not there."""
    out = work / f"{recipe}-{layout}.edgekit"
    if out.exists():
        return out
    checkpoint, file = work / "checkpoint", work / "cal.safetensors"
    if not checkpoint.exists():
        planted.make(shape, checkpoint)
    if not file.exists() and not shape.experts:
        planted.calibration(shape, file)
    opened = open_checkpoint(checkpoint)
    model = describe(opened.config, {n: t.shape for n, t in opened.tensors.items()}, opened.generation)
    if not shape.experts:
        opened, model = extend(opened, file), apply(model, file)
    placed = plan_layout(model, load_recipe(recipe), Arrangement(layout))
    Writer(opened, model, placed, out, {"layout": layout}, recipe).run(Threads(2), lambda done, total: None)
    return out


def decode(bundle: Path, options: dict[str, Any], limit: int, warm: int, tokens: int) -> dict[str, Any]:
    """A run of benchmarks.decode under the limit; {"outcome": ...} when it did not finish."""
    limits.drop_cache(bundle)
    job = json.dumps({"bundle": str(bundle), "options": {**BASE, **options}, "warm": warm, "tokens": tokens})
    done = limits.run_limited(
        [sys.executable, "-m", "benchmarks.decode", job], limit, {"OPENBLAS_NUM_THREADS": "1"}, timeout=1800
    )
    if done.returncode != 0:
        return {"outcome": "killed by the kernel" if done.killed else done.stderr.strip()[-200:]}
    return {**json.loads(done.stdout), "group_peak": done.peak}


def compute_seconds(bundle: Path, selected: float) -> float:
    """Least time of a token's arithmetic: bytes of weights over the rate of their kernels."""
    data = manifest.read(bundle).data
    rates: dict[str, float] = {}
    experts = {
        n: b["top_k"] / len(b["matrices"]) for b in data["model"]["blocks"] if "top_k" in b for n in b["matrices"]
    }
    ffn = {n for b in data["model"]["blocks"] if b["kind"] == "ffn" for n in [*b["matrices"], b.get("selector")] if n}
    lookups = {data["model"]["embedding"]["matrix"], data["model"]["embedding"].get("position")}
    lookups -= {data["model"]["head"]["matrix"]}
    predicting = selected < 1
    seconds = 0.0
    for m in data["matrices"]:
        if m["name"] in lookups or (".predict." in m["name"] and not predicting):
            continue
        for part in m["parts"]:
            kernel = device.kernel_name(part["codec"], part["bits"])
            if kernel not in rates:
                rates[kernel] = max(device.measure_kernel(part["codec"], part["bits"], 2, 0.3) for _ in range(3))
            size = m["rows"] * part["cols"] * part["bits"] / 8
            share = experts.get(m["name"], selected if m["name"] in ffn else 1.0)
            seconds += size * share / rates[kernel]
    return seconds


def row_text(row: Row, r: dict[str, Any], bundle: Path, base: dict[str, float]) -> str:
    """A line of the table."""
    if "outcome" in r:
        return f"| {row.name} | {r['outcome']} |"
    flash = bundle / "flash.bin"
    read, operations = r["generation_bytes_read"], r["read_operations"]
    if row.options["select"] == "all":
        io = read / device.measure_stream(flash, 1.0)
        selected = 1.0
    else:
        size = max(4096, round(read / max(1.0, operations) / 4096) * 4096)
        test = device.measure_reads(flash, size, 128, 1.0)
        io = operations / (test.reads / test.elapsed)
        selected = r["selected"] / r["neurons"] if r["neurons"] else 1.0
    compute = compute_seconds(bundle, selected)
    overlaps = row.options["select"] == "all" or row.options.get("lookahead", True)
    bound = max(io, compute) if overlaps else io + compute
    wait = r["io_wait_seconds"]
    base.setdefault("naive_wait", wait)
    base.setdefault("naive", r["tokens_per_second"])
    if "hybrid" not in base and not row.naive:
        base["hybrid"] = r["tokens_per_second"]
    speed = r["tokens_per_second"]
    units = max(1.0, r["window_hits"] + r["window_misses"])
    rate = read / r["seconds_per_token"] / 1e9
    hits = f"{r['window_hits'] / units:.0%}" if row.options["select"] != "all" else ""
    hybrid = f"{speed / base['hybrid']:.1f}x" if "hybrid" in base else ""
    return (
        f"| {row.name} | {speed:.2f} | {speed / base['naive']:.1f}x | {hybrid} | "
        f"{1e3 * wait:.0f} | {base['naive_wait'] / wait:.0f}x | "
        f"{1e3 * r['manage_seconds']:.1f} | {1e3 * (r['seconds_per_token'] - wait - r['manage_seconds']):.0f} | "
        f"{read / MIB:.0f} | {operations:.0f} | {rate:.2f} | {hits} | {1 / bound:.2f} | {speed * bound:.0%} | "
        f"{r['group_peak'] / MIB:.0f} |"
    )


HEAD = (
    "| | tok/s | of naive | of hybrid | wait ms | less than naive | memory ms | compute ms | MiB read | reads | GB/s "
    "| hits | bound tok/s | reached | peak MiB |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def peer_rows(shape: planted.Shape, work: Path, python: str, limit: int, base: dict[str, float]) -> list[str]:
    """llama.cpp on a Q4_0 file of the same shape, under the same limit: it computes and reads every neuron."""
    gguf = work / "peer.gguf"
    llamacpp.make(python, gguf, planted.config_of(shape) | PEER_CONFIG)
    lines = []
    for repack, name in ((False, "mapped, no repack"), (True, "default")):
        limits.drop_cache(gguf)
        done, found = llamacpp.run(python, gguf, 4, repack=repack, prompt=2, limit=limit)
        size, peak = gguf.stat().st_size / MIB, done.peak / MIB
        speed = found.get("generation", 0.0)
        told = f"{speed:.2f} | {speed / base['naive']:.1f}x | {speed / base['hybrid']:.1f}x" if found else "killed | |"
        lines.append(f"| llama.cpp Q4_0 ({size:.0f} MiB), {name} | {told} {'| ' * 11}| {peak:.0f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def ladder(shape: planted.Shape, work: Path, recipe: str, tokens: int, python: str | None) -> list[str]:
    """The table of one shape and recipe; `python`: an interpreter that has the peer."""
    rungs = MIXTURE if shape.experts else LADDER
    bundles = {layout: build(shape, work, recipe, layout) for layout in {r.layout for r in rungs}}
    size = sum(f.stat().st_size for f in bundles["bundle"].rglob("*") if f.is_file())
    limit = size // 2
    flash = bundles["bundle"] / "flash.bin"
    limits.drop_cache(bundles["bundle"])
    first = device.measure_stream(flash, 60.0, once=True)
    again = device.measure_stream(flash, 2.0)
    lines = [
        f"## {shape.name}, {recipe}: {size / MIB:.0f} MiB, limit {limit / MIB:.0f} MiB",
        "",
        f"The file's first reading from end to end in this run: {first / 1e9:.2f} GB/s; again: {again / 1e9:.2f} GB/s.",
        "",
        *HEAD,
    ]
    base: dict[str, float] = {}
    for row in rungs:
        bundle = bundles[row.layout]
        ram = limit - OVERHEAD
        if row.naive:
            floor = plan_bundle(bundle, Options(**BASE, select=row.options["select"])).floor_bytes
            ram = min(ram, floor + 24 * MIB)
        dense = row.options["select"] == "all"
        warm, count = (2, max(4, tokens // 8)) if dense else (tokens, tokens)
        result = decode(bundle, {**row.options, "ram": ram}, limit, warm, count)
        lines.append(row_text(row, result, bundle, base))
        print(lines[-1], file=sys.stderr, flush=True)
    if python and shape.gated and not shape.experts and "4" in recipe:
        lines += peer_rows(shape, work, python, limit, base)
    return [*lines, ""]


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--work", type=Path, help="folder to keep and reuse the models in (up to 60 GB)")
    cli.add_argument("--out", type=Path, default=Path("docs/results/flash.md"))
    cli.add_argument("--shape", choices=list(SHAPES), action="append")
    cli.add_argument("--recipe", action="append")
    cli.add_argument("--layers", type=int, default=32, help="fewer for a quick look")
    cli.add_argument("--tokens", type=int, default=64)
    cli.add_argument("--peer-python", default=sys.executable, help="interpreter with llama-cpp-python and gguf")
    a = cli.parse_args()
    if not limits.available():
        sys.exit("benchmarks.flash needs root, for memory groups")
    peer = a.peer_python if llamacpp.available(a.peer_python) else None
    lines = ["# The ladder", "", *str(__doc__).splitlines()[2:], ""]
    with tempfile.TemporaryDirectory() as scratch:
        for name in a.shape or list(SHAPES):
            shape = dataclasses.replace(SHAPES[name], layers=a.layers)
            work = (a.work or Path(scratch)) / f"{name}{a.layers}"
            work.mkdir(parents=True, exist_ok=True)
            for recipe in a.recipe or ["f16", "palette4"]:
                lines += ladder(shape, work, recipe, a.tokens, peer)
            if a.work is None:
                subprocess.run(["rm", "-rf", str(work)], check=True)
    text = "\n".join(lines) + "\n"
    a.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
