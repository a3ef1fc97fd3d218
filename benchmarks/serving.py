"""A server process in a memory group that the kernel limits, and the requests that the server benchmarks make."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import limits

START_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """A server that answers on loopback.

    Attributes:
        port: where it listens.
        process: of the server.
        peak: file with the most bytes that its memory group has had; None without a limit.
    """

    port: int
    process: subprocess.Popen[bytes]
    peak: Path | None

    def peak_bytes(self) -> int:
        """The most memory so far, page cache included; 0 without a limit."""
        return int(self.peak.read_text()) if self.peak else 0

    def resident_bytes(self) -> int:
        """The process's memory now, as the kernel counts it."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serve(command: list[str], port: int, limit: int | None, ready: str = "/v1/models") -> Iterator[Server]:
    """Starts a server under a limit, waits until it answers, and ends it.

    Args:
        command: that starts the server.
        port: where it will listen.
        limit: bytes of its memory group; None for no limit.
        ready: a path that answers once the server does.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    with limits.group(limit) as (tasks, peak):

        def enter() -> None:
            if tasks is not None:
                tasks.write_text(str(os.getpid()))

        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=enter)
        try:
            _wait(process, port, ready)
            yield Server(port, process, peak)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, path: str) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            if ask(port, path)[0] == 200:
                return
        except OSError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        if time.monotonic() > end:
            raise RuntimeError("the server did not begin to answer")
        time.sleep(0.1)


def ask(port: int, path: str, body: Any = None, seconds: float = 600) -> tuple[int, bytes]:
    """Status and body of an answer; a body of bytes is sent as it is, None makes it a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def stream(port: int, path: str, body: dict[str, Any], most: int | None = None, seconds: float = 600) -> list[float]:
    """Times (of the monotonic clock) at which the pieces of a streamed answer came.

    Args:
        port: of the server.
        path: of the request.
        body: of the request; "stream" is set.
        most: pieces after which the client leaves without a word; None to hear all.
        seconds: to wait for a piece.

    Raises:
        RuntimeError: the answer is an error.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    times: list[float] = []
    try:
        data = json.dumps({**body, "stream": True}).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"status {answer.status}: {answer.read()[:200]!r}")
        for line in answer:
            if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                times.append(time.monotonic())
            if most is not None and len(times) >= most:
                break
        return times
    finally:
        connection.close()
