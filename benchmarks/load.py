"""python -m benchmarks.load: `edgekit serve` under load over HTTP, beside llama.cpp's server under the same limit.

Clients side by side stream greedy texts of a fixed length. Reported are the tokens a second of all clients together,
and the time to the first token. Each server is a process of its own in a memory group, once with room for everything
and once with a limit that leaves half of the weights out; the servers take turns. The model has random weights, and
both files have 4 bits a weight.

    python -m benchmarks.load --peer-python PEER/bin/python     # needs llama-cpp-python[server] and gguf there
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import llamacpp
from benchmarks.limits import drop_cache
from benchmarks.serve import SMALL
from benchmarks.serving import free_port, serve, stream
from benchmarks.synthetic import make_checkpoint
from edgekit.conversion import convert
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options

MIB = 1 << 20
CLIENTS = (1, 2, 4, 8)
CONTEXT = 128
OVERHEAD = 90 * MIB  # an interpreter and the server's libraries
WORDS = ("cat", "dog", "ball", "tree", "red", "big", "ran", "saw", "Tom", "Lily", "park", "sun")


@dataclass(frozen=True)
class Load:
    """What a server gave to a number of clients.

    Attributes:
        tokens_per_second: of all clients together.
        first: seconds to the first token of each request, sorted.
    """

    tokens_per_second: float
    first: tuple[float, ...]


def load(port: int, clients: int, tokens: int, requests: int, seed: int) -> Load:
    """Each of `clients` streams `requests` texts of `tokens` tokens, one after another; the seed makes the prompts."""
    lock, first, count = threading.Lock(), [], 0
    begin = time.monotonic()

    def client(number: int) -> None:
        nonlocal count
        rng = random.Random(seed * 1000 + number)
        for _ in range(requests):
            prompt = " ".join(rng.choices(WORDS, k=12))
            body: dict[str, Any] = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logit_bias": {"2": -100}}
            asked = time.monotonic()
            times = stream(port, "/v1/completions", body)
            with lock:
                first.append(times[0] - asked)
                count += tokens

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(first) != clients * requests:
        raise RuntimeError("a request failed")
    return Load(count / (time.monotonic() - begin), tuple(sorted(first)))


def edgekit_command(bundle: Path, ram: int | None) -> list[str]:
    """Of edgekit's server, without its port."""
    command = [sys.executable, "-m", "edgekit", "serve", str(bundle), "-q", "--ctx-size", str(CONTEXT)]
    return command + ["--parallel", str(max(CLIENTS))] + ([] if ram is None else ["--ram", str(ram)])


def peer_command(python: str, gguf: Path) -> list[str]:
    """Of llama.cpp's server in llama-cpp-python, without its port."""
    command = [python, "-m", "llama_cpp.server", "--model", str(gguf), "--n_ctx", str(CONTEXT), "--use_mlock", "False"]
    return [*command, "--n_threads", "2", "--n_threads_batch", "2", "--interrupt_requests", "False"]


def row(name: str, runs: list[list[Load]]) -> str:
    """A line of the table: medians over repetitions, by the number of clients."""
    cells = []
    for i in range(len(CLIENTS)):
        speed = statistics.median(run[i].tokens_per_second for run in runs)
        first = sorted(t for run in runs for t in run[i].first)
        middle, late = first[len(first) // 2], first[min(len(first) - 1, int(len(first) * 0.99))]
        cells.append(f"{speed:.1f} ({middle:.2f} / {late:.2f})")
    return f"| {name} | " + " | ".join(cells) + " |"


def table(title: str, commands: dict[str, tuple[list[str], Path]], limit: int | None, given: argparse.Namespace) -> str:
    """All servers in turn under one limit."""
    runs: dict[str, list[list[Load]]] = {name: [] for name in commands}
    failed: dict[str, str] = {}
    for _ in range(given.repeats):
        for name, (command, file) in commands.items():
            if name in failed:
                continue
            port = free_port()
            drop_cache(file)
            try:
                with serve([*command, "--port", str(port)], port, limit) as server:
                    load(port, 1, given.tokens, 1, 0)
                    runs[name].append([load(port, n, given.tokens, given.requests, n) for n in CLIENTS])
                    print(name, limit, runs[name][-1], server.peak_bytes(), file=sys.stderr)
            except (RuntimeError, OSError) as error:
                failed[name] = str(error)
                print(name, limit, error, file=sys.stderr)
    lines = [title, "", "| server | " + " | ".join(f"{n} clients" if n > 1 else "1 client" for n in CLIENTS) + " |"]
    lines += ["|---" * (len(CLIENTS) + 1) + "|"]
    lines += [
        row(name, found) if name not in failed else f"| {name} | {failed[name]} |" for name, found in runs.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Makes the models, measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter with llama-cpp-python[server] and gguf")
    parser.add_argument("--recipe", default="q4")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    probe = subprocess.run([given.peer_python, "-c", "import llama_cpp.server.app, gguf"], capture_output=True)
    if probe.returncode:
        parser.error(f"{given.peer_python} has no llama-cpp-python[server] and gguf")
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder) / "checkpoint", SMALL)
        bundle = convert(Path(folder) / "checkpoint", Path(folder) / "model.edgekit", given.recipe).path
        gguf = Path(folder) / "model.gguf"
        llamacpp.make(given.peer_python, gguf, SMALL)
        plan = plan_bundle(bundle, Options(context=CONTEXT, sessions=max(CLIENTS), select="all"))
        ram = plan.floor_bytes + plan.weight_bytes // 2
        peer = peer_command(given.peer_python, gguf), gguf
        whole = {"edgekit": (edgekit_command(bundle, None), bundle), "llama.cpp": peer}
        half = {"edgekit": (edgekit_command(bundle, ram), bundle), "llama.cpp": peer}
        parts = [
            f"Weights: edgekit {given.recipe} {plan.weight_bytes / MIB:.0f} MiB, llama.cpp Q4_0 "
            f"{gguf.stat().st_size / MIB:.0f} MiB. Tokens a second of all clients together, and in brackets the "
            "seconds to the first token: median / 99th percentile.\n",
            table("With room for everything:", whole, None, given),
            table(f"Under an enforced limit of {(ram + OVERHEAD) / MIB:.0f} MiB:", half, ram + OVERHEAD, given),
        ]
    text = "\n".join(parts)
    print(text)
    if given.out:
        given.out.write_text(text)


if __name__ == "__main__":
    main()
