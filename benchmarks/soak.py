"""python -m benchmarks.soak: many requests of every kind to one server, under a limit that the kernel enforces.

Clients side by side send texts, chats and streams of random lengths, leave in the middle, send bodies that are broken,
and change the budget. Afterwards every request must have been answered or refused in the way that its kind calls for,
each greedy text must be the one that it is alone, the server must still run, and its memory must not have grown.

    python -m benchmarks.soak --requests 10000
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving import Server, ask, free_port, serve, stream
from benchmarks.synthetic import DEMO
from edgekit.conversion import convert

MIB = 1 << 20
OVERHEAD = 100 * MIB  # the interpreter, the server's libraries and the pages of their files, beside the budget
RAM = 8 * MIB
CLIENTS = 8
CONTEXT = 256
PROMPTS = (
    "Once upon a time",
    "The big dog",
    "Tom and Lily went to the park. They saw",
    "One day, a little girl named Sue found a red ball in the garden behind the house, and she",
)
LENGTHS = (1, 3, 8, 17, 30)
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}, "name": {"enum": ["Tom", "Sue"]}},
    "required": ["age", "name"],
    "additionalProperties": False,
}
BROKEN = (
    b"",
    b"{",
    b"[]",
    b'{"prompt": 5}',
    b'{"prompt": "a", "max_tokens": -1}',
    b'{"prompt": "a", "temperature": "hot"}',
    b'{"prompt": [99999999]}',
    b"\xff\xfe",
    b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    json.dumps({"prompt": "word " * 5000}).encode(),
)
REFUSED = (400, 413, 429)


@dataclass
class Report:
    """What came of a soak.

    Attributes:
        answers: by kind of request and status (0: the client left).
        faults: requests that were not answered as their kind calls for, in words.
        resident: the server's memory after each twentieth of the requests, bytes.
        peak: most bytes of the memory group.
        seconds: of the whole.
    """

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    peak: int = 0
    seconds: float = 0.0


class Requests:
    """Kinds of requests, each a method that makes one and says what is wrong with the answer."""

    def __init__(self, port: int) -> None:
        """Asks for each greedy text alone first."""
        self._port = port
        self._alone = {(p, n): self._text(p, n)[1] for p in PROMPTS for n in LENGTHS}
        self.kinds: dict[str, tuple[int, Callable[[random.Random], tuple[int, str]]]] = {
            "greedy": (40, self.greedy),
            "sampled": (15, self.sampled),
            "chat": (10, self.chat),
            "schema": (5, self.schema),
            "stream": (10, self.whole_stream),
            "left": (10, self.left),
            "broken": (8, self.broken),
            "budget": (2, self.budget),
        }

    def _text(self, prompt: str, tokens: int) -> tuple[int, str]:
        status, raw = ask(self._port, "/v1/completions", {"prompt": prompt, "max_tokens": tokens, "temperature": 0})
        return status, json.loads(raw)["choices"][0]["text"] if status == 200 else ""

    def greedy(self, rng: random.Random) -> tuple[int, str]:
        prompt, tokens = rng.choice(PROMPTS), rng.choice(LENGTHS)
        status, text = self._text(prompt, tokens)
        wrong = status == 200 and text != self._alone[prompt, tokens]
        return status, f"{prompt!r} of {tokens} tokens became {text!r}" if wrong else ""

    def sampled(self, rng: random.Random) -> tuple[int, str]:
        body = {"prompt": rng.choice(PROMPTS), "max_tokens": rng.randint(1, 40), "seed": rng.randint(0, 99), "n": 2}
        return ask(self._port, "/v1/completions", body)[0], ""

    def chat(self, rng: random.Random) -> tuple[int, str]:
        messages = [{"role": "user", "content": rng.choice(PROMPTS) * rng.randint(1, 3)}]
        body = {"messages": messages, "max_tokens": rng.randint(1, 30)}
        return ask(self._port, "/v1/chat/completions", body)[0], ""

    def schema(self, rng: random.Random) -> tuple[int, str]:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": "Who?"}],
            "seed": rng.randint(0, 99),
            "max_tokens": 60,
            "response_format": {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA}},
        }
        status, raw = ask(self._port, "/v1/chat/completions", body)
        if status != 200:
            return status, ""
        choice = json.loads(raw)["choices"][0]
        if choice["finish_reason"] == "length":
            return status, ""
        found = json.loads(choice["message"]["content"])
        return status, "" if found.keys() == {"age", "name"} else f"{found} is not what the schema asks for"

    def whole_stream(self, rng: random.Random) -> tuple[int, str]:
        body = {"prompt": rng.choice(PROMPTS), "max_tokens": rng.randint(1, 40)}
        return self._streamed(body, None)

    def left(self, rng: random.Random) -> tuple[int, str]:
        body = {"prompt": rng.choice(PROMPTS), "max_tokens": 200}
        return self._streamed(body, rng.randint(0, 8))

    def _streamed(self, body: dict[str, Any], most: int | None) -> tuple[int, str]:
        try:
            stream(self._port, "/v1/completions", body, most)
        except RuntimeError as error:
            return int(str(error).split()[1].rstrip(":")), ""
        return (200 if most is None else 0), ""

    def broken(self, rng: random.Random) -> tuple[int, str]:
        status, raw = ask(self._port, "/v1/completions", rng.choice(BROKEN))
        right = status in REFUSED and "error" in json.loads(raw)
        return status, "" if right else f"a broken body got status {status}"

    def budget(self, rng: random.Random) -> tuple[int, str]:
        status, _ = ask(self._port, "/budget", {"ram": rng.choice((RAM, RAM * 3 // 4, RAM * 7 // 8))})
        return status, ""


def soak(server: Server, count: int, seed: int = 1) -> Report:
    """Sends `count` requests from several clients; kinds and contents follow from the seed."""
    report, lock = Report(), threading.Lock()
    requests = Requests(server.port)
    names = list(requests.kinds)
    plan = random.Random(seed).choices(names, [requests.kinds[n][0] for n in names], k=count)
    numbers = iter(range(count))
    begin = time.monotonic()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            kind = plan[number]
            try:
                status, fault = requests.kinds[kind][1](random.Random(seed * count + number))
            except (OSError, ValueError, KeyError) as error:
                status, fault = -1, f"{type(error).__name__}: {error}"
            allowed = REFUSED if kind == "broken" else (0, 200, 429)
            if not fault and status not in allowed:
                fault = f"status {status}"
            with lock:
                report.answers[kind, status] += 1
                if fault:
                    report.faults.append(f"request {number} ({kind}): {fault}")
                if (number + 1) % max(1, count // 20) == 0:
                    report.resident.append(server.resident_bytes())

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    report.seconds = time.monotonic() - begin
    report.peak = server.peak_bytes()
    if server.process.poll() is not None:
        report.faults.append(f"the server ended with status {server.process.returncode}")
    return report


def run(bundle: Path, count: int, limit: int | None, seed: int = 1) -> Report:
    """A soak of a server of its own.

    Args:
        bundle: that it serves.
        count: requests.
        limit: bytes of its memory group; None for no limit.
        seed: of the requests.
    """
    port = free_port()
    command = [sys.executable, "-m", "edgekit", "serve", str(bundle), "-q", "--port", str(port), "--ram", str(RAM)]
    command += ["--parallel", "3", "--ctx-size", str(CONTEXT), "--queue", "12"]
    with serve(command, port, limit) as server:
        return soak(server, count, seed)


def describe(report: Report, limit: int) -> str:
    """The report as Markdown."""
    total = sum(report.answers.values())
    kinds = sorted({kind for kind, _ in report.answers})
    lines = [f"{total} requests from {CLIENTS} clients in {report.seconds:.0f} s.", ""]
    lines += ["| kind | answered | refused | client left |", "|---|---|---|---|"]
    for kind in kinds:
        found = {status: n for (k, status), n in report.answers.items() if k == kind}
        refused = sum(n for status, n in found.items() if status >= 400)
        lines.append(f"| {kind} | {found.get(200, 0)} | {refused} | {found.get(0, 0)} |")
    resident = " ".join(f"{size / MIB:.0f}" for size in report.resident)
    lines += ["", f"Resident memory of the server on the way, MiB: {resident}."]
    lines += [f"The memory group's peak was {report.peak / MIB:.0f} MiB; its limit was {limit / MIB:.0f} MiB."]
    lines += [f"Requests that were not answered as they should be: {len(report.faults)}.", *report.faults[:20]]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs a soak on the demo model; its exit status is 1 if a request was not answered as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = convert(DEMO, Path(folder) / "demo.edgekit").path
        report = run(bundle, given.requests, OVERHEAD + RAM, given.seed)
    text = describe(report, OVERHEAD + RAM)
    print(text)
    if given.out:
        given.out.write_text(text)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
