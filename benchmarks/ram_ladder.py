"""python -m benchmarks.ram_ladder: tokens per second at several memory limits, beside llama.cpp.

Every run is a process of its own in a memory cgroup, so that the kernel enforces the limit on everything, the
interpreter and the page cache included. Engines take turns at every limit, the page cache is dropped before each run,
and the figures are medians. Writes the raw results (JSON), a page with a table (Markdown) and a plot (SVG).

    python -m benchmarks.ram_ladder --work /tmp/ladder --peer-python PEER/bin/python
    python -m benchmarks.ram_ladder --draw     # the page and the plot again, from the JSON
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import limits, llamacpp
from benchmarks.synthetic import LLAMA_1B, make_checkpoint
from edgekit.sizes import parse_bytes

MIB = 1 << 20
PROMPT = "Once upon a time there was a little girl who loved to play outside in the park with her friends."
CONTEXT = 256
OVERHEAD = 60 * MIB  # the interpreter, tokenizer and libraries of edgekit, beside the runtime's budget
LIMITS = "150M,200M,250M,300M,358M,450M,550M,650M,800M,1000M"
PEERS = {"llama.cpp, mmap without repack": False, "llama.cpp, default": True}
PAGE = Path(__file__).parents[1] / "docs" / "results" / "ram_ladder"


@dataclass(frozen=True)
class Run:
    """One run: who, under how many bytes, and what came of it (tokens per second; 0 when it did not finish)."""

    engine: str
    limit_bytes: int
    outcome: str
    prompt_tokens_per_second: float
    tokens_per_second: float
    peak_bytes: int


def outcome(done: limits.Limited) -> str:
    """One word or one line about how a run ended."""
    if done.returncode == 0:
        return "finished"
    if done.killed:
        return "killed"
    return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:120]


def run_edgekit(bundle: Path, limit: int, tokens: int, seconds: float = 900) -> Run:
    """A greedy run of `tokens` tokens with the budget that the limit leaves, ended after `seconds`."""
    limits.drop_cache(bundle)
    engine = f"edgekit {bundle.stem}"
    command = [sys.executable, "-m", "edgekit", "run", str(bundle), "-p", PROMPT, "-n", str(tokens), "-c", str(CONTEXT)]
    command += ["--temp", "0", "--ignore-eos", "--ram", str(max(1, limit - OVERHEAD)), "--json"]
    try:
        done = limits.run_limited(command, limit, {"OPENBLAS_NUM_THREADS": "1"}, timeout=seconds)
    except subprocess.TimeoutExpired:
        return Run(engine, limit, "timed out", 0.0, 0.0, limit)
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    speeds = found.get("prompt_tokens_per_second", 0.0), found.get("tokens_per_second", 0.0)
    return Run(engine, limit, outcome(done), *speeds, done.peak)


def run_peer(python: str, engine: str, file: Path, limit: int, tokens: int) -> Run:
    """The same of llama.cpp."""
    limits.drop_cache(file)
    try:
        done, found = llamacpp.run(python, file, tokens, repack=PEERS[engine], limit=limit)
    except subprocess.TimeoutExpired:
        return Run(engine, limit, "timed out", 0.0, 0.0, limit)
    return Run(engine, limit, outcome(done), found.get("prompt", 0.0), found.get("generation", 0.0), done.peak)


def measure(work: Path, config: dict[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """All runs, engines in turn at each limit; models that `work` has already are used again."""
    work.mkdir(parents=True, exist_ok=True)
    bundle, peer = work / f"{given.recipe}.edgekit", work / "peer.gguf"
    if not bundle.exists():
        if not (work / "checkpoint").exists():
            make_checkpoint(work / "checkpoint", config)
        command = [sys.executable, "-m", "edgekit", "convert", str(work / "checkpoint"), "-o", str(bundle), "-q"]
        subprocess.run([*command, "--recipe", given.recipe], check=True)
    with_peer = llamacpp.available(given.peer_python)
    if with_peer:
        llamacpp.make(given.peer_python, peer, config)
    else:
        print(f"{given.peer_python} has no llama-cpp-python and gguf: edgekit alone is measured", file=sys.stderr)
    runs: list[Run] = []
    for _ in range(given.repeats):
        for limit in [parse_bytes(text) for text in given.limits.split(",")]:
            runs.append(run_edgekit(bundle, limit, given.tokens))
            print(runs[-1], file=sys.stderr)
            for engine in PEERS if with_peer else ():
                runs.append(run_peer(given.peer_python, engine, peer, limit, given.tokens))
                print(runs[-1], file=sys.stderr)
    sizes = {"edgekit": sum(f.stat().st_size for f in bundle.rglob("*") if f.is_file())}
    return {
        "machine": {"processor": processor(), "cores": os.cpu_count(), "system": platform.system()},
        "model": {key: config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")},
        "recipe": given.recipe,
        "bytes": sizes | ({"llama.cpp Q4_0": peer.stat().st_size} if with_peer else {}),
        "tokens": given.tokens,
        "repeats": given.repeats,
        "runs": [asdict(run) for run in runs],
    }


def processor() -> str:
    """The processor's name as the system has it."""
    listed = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in listed.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def medians(results: dict[str, Any]) -> dict[str, dict[int, float | None]]:
    """Per engine and limit the median tokens per second; None where a run did not finish."""
    table: dict[str, dict[int, list[float]]] = {}
    for run in results["runs"]:
        table.setdefault(run["engine"], {}).setdefault(run["limit_bytes"], []).append(run["tokens_per_second"])
    return {
        engine: {limit: statistics.median(speeds) if min(speeds) > 0 else None for limit, speeds in row.items()}
        for engine, row in table.items()
    }


def describe(results: dict[str, Any]) -> str:
    """The model in one line."""
    layers, hidden = results["model"]["num_hidden_layers"], results["model"]["hidden_size"]
    full = layers == LLAMA_1B["num_hidden_layers"] and hidden == LLAMA_1B["hidden_size"]
    return "Llama of 1.1B weights" if full else f"Llama of {layers} layers, hidden size {hidden}"


def differences(results: dict[str, Any]) -> str:
    """Why the files of the two engines differ in size; nothing when only one was measured, or without quantization."""
    if len(results["bytes"]) < 2 or not results["recipe"].startswith(("palette", "q")):
        return ""
    return (
        f"They differ because {results['recipe']} keeps the embedding and the head at 8 bits, where the Q4_0 file has "
        "4 bits for every matrix. "
    )


def draw(results: dict[str, Any], path: Path) -> None:
    """The plot: tokens per second over the limit. Limits where an engine did not finish are crosses on the axis."""
    import matplotlib  # type: ignore[import-not-found,unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Text stays text, and two drawings of one result are the same bytes.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "edgekit", "font.size": 11})
    figure, axes = pyplot.subplots(figsize=(7.5, 4.2))
    figure.patch.set_facecolor("white")
    styles = zip(("#0b6e4f", "#c8553d", "#8a8a8a"), ("o", "s", "^"), strict=True)
    for (engine, row), (color, marker) in zip(medians(results).items(), styles, strict=False):
        points = [(limit / MIB, speed) for limit, speed in sorted(row.items()) if speed is not None]
        failed = [limit / MIB for limit, speed in sorted(row.items()) if speed is None]
        axes.plot(*zip(*points, strict=True) if points else ([], []), color=color, marker=marker, label=engine)
        axes.plot(failed, [0] * len(failed), color=color, marker="x", linestyle="none", markersize=9, clip_on=False)
    axes.axvline(results["bytes"]["edgekit"] / MIB, color="#0b6e4f", alpha=0.4, linestyle=":")
    axes.annotate("size of the bundle", (results["bytes"]["edgekit"] / MIB, axes.get_ylim()[1]), rotation=90)
    axes.set(xlabel="memory limit of the whole process, MiB (x: did not finish)", ylabel="tokens per second")
    axes.set_title(f"{describe(results)}, 4 bits, {results['machine']['cores']} cores", fontsize=12)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.texts[0].set(y=axes.get_ylim()[1] * 0.03, verticalalignment="bottom", horizontalalignment="right", fontsize=9)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def counts(results: dict[str, Any]) -> str:
    """How many runs a figure is of."""
    found: dict[tuple[str, int], int] = {}
    for run in results["runs"]:
        cell = run["engine"], run["limit_bytes"]
        found[cell] = found.get(cell, 0) + 1
    least, most = min(found.values()), max(found.values())
    return f"{most} run{'s' if most > 1 else ''}" if least == most else f"{least} to {most} runs"


def page(results: dict[str, Any]) -> str:
    """The Markdown page: what was measured, the plot, and a table of medians."""
    found, machine = medians(results), results["machine"]
    sizes = ", ".join(f"{name} {size / MIB:.0f} MiB" for name, size in results["bytes"].items())
    lines = [
        "# Speed against memory",
        "",
        f"{describe(results)} (random weights), {results['recipe']} and Q4_0; {machine['cores']} cores of "
        f"{machine['processor']}, {machine['system']}. Files: {sizes}. {differences(results)}"
        f"After a prompt of about 26 tokens, {results['tokens']} tokens are generated; figures are medians of "
        f"{counts(results)}, engines in turn; an empty cell was not measured. "
        "The limit is a memory cgroup: the kernel enforces it on the whole process, interpreter and page cache "
        f"included. edgekit's `--ram` is the limit less {OVERHEAD // MIB} MiB for its interpreter. The page cache is "
        "dropped before each run; a host may still cache the disk below this machine.",
        "",
        "![Tokens per second against the memory limit](ram_ladder.svg)",
        "",
        "| limit, MiB | " + " | ".join(found) + " |",
        "|---|" + "---|" * len(found),
    ]
    ends = {(r["engine"], r["limit_bytes"]): r["outcome"] for r in results["runs"] if r["outcome"] != "finished"}
    for limit in sorted({run["limit_bytes"] for run in results["runs"]}):
        cells = []
        for engine, row in found.items():
            speed = row.get(limit)
            cells.append(f"{speed:.2f}" if speed is not None else ends.get((engine, limit), ""))
        lines.append(f"| {limit / MIB:.0f} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Made by `python -m benchmarks.ram_ladder`.", ""])


def main() -> None:
    """Measures, or draws again what was measured."""
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--work", type=Path, help="folder to keep and reuse the models in (3.5 GB)")
    cli.add_argument("--out", type=Path, default=PAGE, help="path of the JSON, the page and the plot, without suffix")
    cli.add_argument("--peer-python", default=sys.executable, help="interpreter with llama-cpp-python and gguf")
    cli.add_argument("--limits", default=LIMITS, help=f"comma-separated (default: {LIMITS})")
    cli.add_argument("--recipe", default="palette4")
    cli.add_argument("--layers", type=int, default=LLAMA_1B["num_hidden_layers"], help="fewer make a quick trial")
    cli.add_argument("--tokens", type=int, default=32)
    cli.add_argument("--repeats", type=int, default=3)
    cli.add_argument("--draw", action="store_true", help="measure nothing; draw from the JSON")
    given = cli.parse_args()
    raw = given.out.with_suffix(".json")
    if not given.draw:
        if not limits.available():
            sys.exit("memory groups cannot be made here: run as root, with the memory controller mounted")
        with tempfile.TemporaryDirectory() as scratch:
            results = measure(given.work or Path(scratch), LLAMA_1B | {"num_hidden_layers": given.layers}, given)
        raw.write_text(json.dumps(results, indent=1) + "\n")
    results = json.loads(raw.read_text())
    given.out.with_suffix(".md").write_text(page(results))
    draw(results, given.out.with_suffix(".svg"))
    print(page(results))


if __name__ == "__main__":
    main()
