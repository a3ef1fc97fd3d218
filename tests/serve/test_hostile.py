"""Clients that mean harm, and web pages that should not be heard."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from edgekit.runtime.values import Options
from edgekit.serve import listen
from edgekit.serve.app import Server
from edgekit.serve.bundles import Bundles, open_bundle
from edgekit.serve.guard import Guard
from edgekit.serve.loopback import is_loopback
from edgekit.serve.scheduler import Limits, Scheduler
from tests.conftest import ROOT
from tests.serve.conftest import RAM, Running, free_port


def exchange(port: int, data: bytes, patience: float = 60) -> bytes:
    """What a server answers to bytes, until it closes or the answer is whole."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        out = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                out += part
        except (TimeoutError, ConnectionError):
            pass
        return out


def post(port: int, body: bytes, *headers: str, path: str = "/v1/completions") -> tuple[int, bytes]:
    head = [f"POST {path} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    if not any(h.lower().startswith("host:") for h in headers):
        head.insert(1, "Host: localhost")
    answer = exchange(port, "\r\n".join(head).encode() + body)
    return int(answer.split(b" ", 2)[1]), answer.split(b"\r\n\r\n", 1)[1]


DEEP = b'{"model": "demo", "prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"nonsense", b'{"prompt": NaN}', b'"text"', b"\xff\xfe", DEEP, b'{"a":' * 100_000],
    ids=range(9),
)
def test_bodies_that_are_no_requests(server: Running, body: bytes) -> None:
    status, text = post(server.port, body)
    assert status == 400
    assert json.loads(text)["error"]["type"] == "invalid_request_error"


def test_bodies_that_are_too_large_are_not_read(server: Running) -> None:
    post_head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head = post_head + b"Content-Length: 104857600\r\n\r\n"
    assert b" 413 " in exchange(server.port, head + b"x" * 1000).split(b"\r\n")[0]
    head = post_head + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert b" 413 " in exchange(server.port, head + chunk * 100).split(b"\r\n")[0]
    assert server.post("/tokenize", {"content": "still there"})[0] == 200


def test_floods_of_headers_are_refused(server: Running) -> None:
    flood = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"b" * 8_000_000 + b"\r\n\r\n"
    answer = exchange(server.port, flood)
    assert not answer.startswith(b"HTTP/1.1 200")
    assert json.loads(server.get("/health"))["status"] == "ok"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[bad"]
)
def test_names_that_are_not_this_machine_are_refused(server: Running, host: str) -> None:
    status, text = post(server.port, b"{}", f"Host: {host}")
    assert (status, b"Host" in text or status == 400) in ((403, True), (400, True))


def test_web_pages_of_other_origins_are_refused(server: Running) -> None:
    host = f"Host: localhost:{server.port}"
    for origin in (
        "https://evil.example",
        "http://localhost:1",
        "null",
        f"http://localhost:{server.port}.evil.example",
    ):
        status, text = post(server.port, b'{"content": "x"}', host, f"Origin: {origin}", path="/tokenize")
        assert (status, json.loads(text)["error"]["code"]) == (403, "wrong_origin")
    same = f"Origin: http://localhost:{server.port}"
    assert post(server.port, b'{"content": "x"}', host, same, path="/tokenize")[0] == 200


def test_names_of_models_are_no_paths(server: Running, tmp_path: Path) -> None:
    for name in ("../demo", "/etc/passwd", "demo/../demo", "demo\x00", "x" * 10_000):
        status, found = server.post("/v1/completions", {"model": name, "prompt": "x"})
        assert (status, found["error"]["code"]) == (404, "model_not_found")
        assert len(found["error"]["message"]) < 300
    for path in ("/v1/models/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/v1/models/%00"):
        assert (
            b" 404 "
            in exchange(server.port, f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()).split(b"\r\n")[0]
        )


def test_messages_are_no_templates(server: Running) -> None:
    text = "{{ 7 * 7 }}{% for i in range(9) %}x{% endfor %}{{ ''.__class__ }}"
    body = {"messages": [{"role": "user", "content": text}]}
    status, found = server.post("/apply-template", body)
    assert (status, found["prompt"]) == (200, f"<user>{text}</user>\n<assistant>")


def test_grammars_that_explode_are_refused_or_end(server: Running) -> None:
    nested: object = {"type": "integer"}
    for _ in range(200):
        nested = {"type": "array", "items": nested, "minItems": 50, "maxItems": 50}
    big = {"type": "object", "properties": {f"p{i}": {"enum": [f"v{j}" for j in range(200)]} for i in range(300)}}
    for schema in (nested, big, {"$ref": "#"}, {"type": "string", "pattern": "(a+)+$" * 50}):
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 3,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        }
        status, found = server.post("/v1/chat/completions", body)
        assert status in (200, 400), found
    assert server.post("/tokenize", {"content": "still there"})[0] == 200


class Own:
    """A server in this process, with limits that are short."""

    def __init__(self, bundle: Path, guard: Guard) -> None:
        self.scheduler = Scheduler(Bundles([open_bundle(bundle, 64)], Options(sessions=1, ram=RAM)), Limits())
        self.port = free_port()
        config = listen.make_config(Server(self.scheduler, guard).app(), "127.0.0.1", self.port)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def strict(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    monkeypatch.setattr(listen, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(listen, "KEEP_SECONDS", 1)
    own = Own(demo, Guard("sesame", ("https://friend.example",), body_bytes=1000, body_seconds=0.4))
    yield own
    own.stop()


KEY = "Authorization: Bearer sesame"


def test_slow_clients_are_sent_away(strict: Own) -> None:
    assert exchange(strict.port, b"GET /health HT") == b""
    assert exchange(strict.port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n") == b""
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert exchange(strict.port, whole + b"GET /hea").count(b"HTTP/1.1 200") == 1  # slow in the second request
    head = f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n{KEY}\r\nContent-Length: 100\r\n\r\n"
    assert exchange(strict.port, head.encode() + b'{"content": ').startswith(b"HTTP/1.1 408")


def test_the_key_is_asked_for(strict: Own) -> None:
    body = b'{"content": "x"}'
    for wrong in ([], ["Authorization: Bearer"], ["Authorization: Bearer wrong"], ["Authorization: Basic sesame"]):
        status, text = post(strict.port, body, *wrong, path="/tokenize")
        assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")
    assert post(strict.port, body, KEY, path="/tokenize")[0] == 200
    assert exchange(strict.port, b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert exchange(strict.port, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 401")


def test_web_pages_that_were_allowed_are_heard(strict: Own) -> None:
    head = "OPTIONS /tokenize HTTP/1.0\r\nHost: localhost\r\nOrigin: https://{}.example\r\n\r\n"
    allowed = exchange(strict.port, head.format("friend").encode()).lower()
    assert allowed.startswith(b"http/1.1 204")
    assert b"access-control-allow-origin: https://friend.example" in allowed
    refused = exchange(strict.port, head.format("other").encode()).lower()
    assert refused.startswith(b"http/1.1 403")
    assert b"access-control-allow-origin" not in refused
    asked = urllib.request.Request(
        f"http://127.0.0.1:{strict.port}/v1/models",
        headers={"Origin": "https://friend.example", "Authorization": "Bearer sesame"},
    )
    with urllib.request.urlopen(asked) as response:
        assert response.headers["access-control-allow-origin"] == "https://friend.example"


def test_loopback_is_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "127.0.0.1.example", "example.org", "")))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "--allow-remote"),
        (["--host", "::"], "--allow-remote"),
        (["--ram", "10K"], "needs at least"),
        (["--max-body", "0"], "is less than one byte"),
    ],
)
def test_servers_that_must_not_begin_say_why(demo: Path, arguments: list[str], reason: str) -> None:
    done = serve(demo, *arguments)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def serve(bundle: Path, *arguments: str, missing: str = "") -> subprocess.CompletedProcess[str]:
    hidden = f"sys.modules[{missing!r}] = None;" if missing else ""
    script = f"import sys; {hidden} from edgekit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "serve", str(bundle), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, env=dict(os.environ))


def test_a_port_in_use_is_named(demo: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = serve(demo, "-q", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "is the port in use?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_missing_packages_are_named(demo: Path, package: str) -> None:
    done = serve(demo, "-q", "--port", "0", missing=package)
    assert done.returncode == 1
    assert "pip install 'edgekit[serve]'" in done.stderr
    assert "Traceback" not in done.stderr
