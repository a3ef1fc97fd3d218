"""A real server process on loopback, under a small budget."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from edgekit.conversion import convert
from tests.conftest import DEMO, ROOT

TEMPLATE = (
    "{% for t in tools or [] %}<tool>{{ t | tojson }}</tool>\n{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
RAM = 6 << 20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def hear_interrupts() -> None:
    """A job in the background has Ctrl-C ignored, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Running:
    """`edgekit serve` in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "edgekit", "serve", *map(str, arguments), "--port", str(self.port)]
        environment = {k: v for k, v in os.environ.items() if k != "EDGEKIT_API_KEY"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=hear_interrupts
        )
        self.url = f"http://127.0.0.1:{self.port}"
        end = time.monotonic() + 100
        while True:
            try:
                self.get("/health", 5)
                return
            except OSError:
                if self.process.poll() is not None:
                    assert self.process.stderr is not None
                    raise AssertionError(self.process.stderr.read()) from None
                assert time.monotonic() < end, "the server did not begin"
                time.sleep(0.05)

    def client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=200, **more)

    def get(self, path: str, patience: float = 100) -> str:
        with urllib.request.urlopen(self.url + path, timeout=patience) as response:
            text: str = response.read().decode()
            return text

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON; a body of bytes is sent as it is."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, headers or {})
        try:
            with urllib.request.urlopen(asked, timeout=100) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(f"edgekit_{name}")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line[len(f"edgekit_{name}")] in " {")

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric has a value."""
        end = time.monotonic() + 100
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("serve") / "plain.edgekit", "q4").path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    shutil.copytree(DEMO, folder / "checkpoint")
    (folder / "checkpoint" / "chat_template.jinja").write_text(TEMPLATE)
    return convert(folder / "checkpoint", folder / "demo.edgekit", "q4").path


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a context that takes many seconds to fill."""
    folder = tmp_path_factory.mktemp("endless")
    shutil.copytree(DEMO, folder / "checkpoint")
    config = json.loads((DEMO / "config.json").read_text())
    (folder / "checkpoint" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20_000}))
    return convert(folder / "checkpoint", folder / "demo.edgekit", "q4").path


@pytest.fixture(scope="session")
def server(demo: Path) -> Iterator[Running]:
    running = Running(demo, "--ram", RAM, "--parallel", 3, "--ctx-size", 384)
    yield running
    assert running.process.poll() is None, "the server has ended"
    running.stop()
