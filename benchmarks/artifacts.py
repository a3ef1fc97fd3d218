"""Artifacts at the size of a real model: time and memory of each export, speed beside the native runtime, and what a
call of FlashFFN costs.

    python -m benchmarks.artifacts BUNDLE [--limit 450M]

BUNDLE is a full-size one, as `python -m benchmarks` converts it. Each export and each run is a process of its own. With
--limit, onnx-flash runs in a memory cgroup of that size (as root).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.limits import drop_cache, run_limited
from edgekit.converters.kinds import KINDS
from edgekit.runtime.native import library_path
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.sizes import parse_bytes

EXPORT = """
import sys, time, json, resource
from edgekit.converters.base import export
begin = time.monotonic()
made = export(sys.argv[1], sys.argv[2], overwrite=True)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.monotonic() - begin, "peak": peak * 1024, "bytes": made.bytes, **made.about}))
"""
RUN = """
import sys, json, time, statistics
from pathlib import Path
from edgekit.converters.session import ArtifactSession
from edgekit.runtime.model import process_peak_bytes
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
bundle, kind, tokens, ram = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] or None
options = Options(ram=ram, context=256)
session = Session(bundle, options) if kind == "native" else ArtifactSession(bundle, kind, options)
session.eval(list(range(5, 37)))
times = []
for i in range(tokens):
    begin = time.monotonic()
    session.eval([7 + i])
    times.append(time.monotonic() - begin)
print(json.dumps({"tokens_per_second": 1 / statistics.median(times), "peak": process_peak_bytes()}))
"""


def process(code: str, *arguments: str) -> dict[str, Any]:
    """Runs Python code in a process of its own; its last line is JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def call_cost(bundle: Path, calls: int = 64, rounds: int = 30) -> tuple[float, float]:
    """Seconds of one FlashFFN call in onnxruntime, and of the same block by the C ABI within it (medians)."""
    import onnx_ir as ir
    import onnxruntime as ort

    with Session(bundle, Options(compute="feed_forward")) as session:
        hidden = session.hidden_size
        x = np.random.default_rng(0).standard_normal((1, hidden)).astype(np.float32)
        block = next(i for i in range(99) if i % 2)
        inside = []
        for _ in range(rounds):
            before = session.stats.generation_seconds
            for _ in range(calls):
                session.feed_forward(block, x)
            inside.append((session.stats.generation_seconds - before) / calls)

    def graph(count: int) -> Path:
        value = given = ir.Value(name="x", shape=ir.Shape((1, 1, hidden)), type=ir.TensorType(ir.DataType.FLOAT))
        nodes = []
        for _ in range(count):
            node = ir.node("FlashFFN", [given], {"block": block}, domain="ai.edgekit")
            nodes.append(node)
            value = node.outputs[0]
        value.name, value.shape, value.type = "y", given.shape, given.type
        made = ir.Graph([given], [value], nodes=nodes, opset_imports={"": 21, "ai.edgekit": 1}, name="cost")
        path = Path(folder) / f"{count}.onnx"
        ir.save(ir.Model(made, ir_version=10), path)
        return path

    def timed(count: int) -> float:
        options = ort.SessionOptions()
        options.add_session_config_entry("ai.edgekit.bundle", str(bundle))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.register_custom_ops_library(str(library_path("libedgekit_onnx")))
        opened = ort.InferenceSession(str(graph(count)), options, providers=["CPUExecutionProvider"])
        times = []
        for _ in range(rounds):
            begin = time.monotonic()
            opened.run(None, {"x": x[None]})
            times.append(time.monotonic() - begin)
        return statistics.median(times)

    with tempfile.TemporaryDirectory() as folder:
        return (timed(calls + 1) - timed(1)) / calls, statistics.median(inside)


def main() -> None:
    """Prints the tables of docs/results/artifacts.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--limit")
    parser.add_argument("--ram", help="With --limit: of the feed-forward blocks.")
    parser.add_argument("--tokens", type=int, default=24)
    given = parser.parse_args()
    bundle: Path = given.bundle
    print("| artifact | seconds | peak MiB | MiB | re-quantized |\n|---|---|---|---|---|")
    for kind in KINDS:
        m = process(EXPORT, str(bundle), kind)
        lossy = f"{m['requantized_rms']:.1%} error" if m["requantized_weights"] else "no"
        print(f"| {kind} | {m['seconds']:.1f} | {m['peak'] / 2**20:.0f} | {m['bytes'] / 2**20:.0f} | {lossy} |")
    print("\n| runs on | tok/s | of native | peak MiB of the process |\n|---|---|---|---|")
    native = 0.0
    for kind in ("native", "onnx", "onnx-exact", "onnx-flash", "mlx", "mlx-exact"):
        tokens = 2 if kind in ("onnx-exact", "mlx", "mlx-exact") else given.tokens
        r = process(RUN, str(bundle), kind, str(tokens), "")
        native = native or r["tokens_per_second"]
        share = r["tokens_per_second"] / native
        print(f"| {kind} | {r['tokens_per_second']:.2f} | {share:.2f} | {r['peak'] / 2**20:.0f} |")
    if given.limit:
        limit = parse_bytes(given.limit)
        drop_cache(bundle)
        command = [sys.executable, "-c", RUN, str(bundle), "onnx-flash", str(given.tokens), given.ram or ""]
        done = run_limited(command, limit)
        print(f"\nonnx-flash within {limit >> 20} MiB (cgroup), --ram {given.ram}: {done}")
    call, inside = call_cost(bundle)
    print(f"\nFlashFFN: {call * 1e6:.1f} us a call, of which {inside * 1e6:.1f} us are the block itself")


if __name__ == "__main__":
    main()
