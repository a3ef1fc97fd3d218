"""Turns, queues, cancellation, and several bundles in one budget."""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from edgekit.errors import BudgetError, RuntimeFailure
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options, Sampling
from edgekit.serve.app import Server
from edgekit.serve.bundles import Bundles, open_bundle
from edgekit.serve.errors import ApiError
from edgekit.serve.guard import Guard
from edgekit.serve.job import Event, Failed, Finished, Job, Started, Token
from edgekit.serve.scheduler import Limits, Scheduler
from tests.serve.conftest import Running

GREEDY = Sampling(temperature=0)
NARROW_RAM = 80 << 20
ENDLESS = Job("demo", (3, 4, 5), 10_000, GREEDY, ignore_eos=True)


class Watched:
    """A job's events, as they come, in one list for all jobs."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.all: queue.Queue[tuple[str, Event]] = queue.Queue()

    def submit(self, name: str, job: Job) -> Any:
        return self.scheduler.submit([job], [lambda event: self.all.put((name, event))])[0]

    def until(self, name: str, kind: type[Event] | tuple[type[Event], ...]) -> list[tuple[str, Event]]:
        """Events up to one of a kind of a job."""
        out = []
        while True:
            out.append(self.all.get(timeout=100))
            if out[-1][0] == name and isinstance(out[-1][1], kind):
                return out


@pytest.fixture
def scheduler(demo: Path) -> Iterator[Scheduler]:
    bundles = Bundles([open_bundle(demo, 500)], Options(sessions=2, threads=1))
    made = Scheduler(bundles, Limits(queue=2, seconds=300))
    yield made
    made.close()


def test_a_long_prompt_does_not_hold_up_who_writes(scheduler: Scheduler) -> None:
    watched = Watched(scheduler)
    first = watched.submit("writer", ENDLESS)
    watched.until("writer", Token)
    watched.submit("reader", Job("demo", tuple(range(3, 453)), 4, GREEDY))
    watched.until("reader", Started)
    meanwhile = [event for name, event in watched.until("reader", Token) if name == "writer"]
    assert len(meanwhile) >= 450 // 64  # a token for each piece of the prompt
    first.cancel()
    watched.until("writer", Failed)


def test_turns_are_fair(scheduler: Scheduler) -> None:
    watched = Watched(scheduler)
    tickets = [watched.submit(name, replace(ENDLESS, ids=(3, 4, i))) for i, name in enumerate("ab")]
    watched.until("b", Token)
    order = [watched.all.get(timeout=100)[0] for _ in range(60)]
    assert order.count("a") == order.count("b") == 30
    for ticket in tickets:
        ticket.cancel()


def test_texts_are_those_of_one_at_a_time(scheduler: Scheduler) -> None:
    watched = Watched(scheduler)

    def text(events: list[tuple[str, Event]], name: str) -> list[int]:
        return [e.token for n, e in events if n == name and isinstance(e, Token)]

    jobs = {
        n: Job("demo", tuple(range(3 + i, 80 + i)), 20, Sampling(seed=i), ignore_eos=True) for i, n in enumerate("ab")
    }
    alone = {}
    for name, job in jobs.items():
        watched.submit(name, job)
        alone[name] = text(watched.until(name, Finished), name)
    for name, job in jobs.items():
        watched.submit(name, job)
    events = watched.until("a", Finished)
    events += watched.until("b", Finished) if not any(n == "b" and isinstance(e, Finished) for n, e in events) else []
    assert {n: text(events, n) for n in jobs} == alone


def test_a_full_queue_says_when_to_come_again(scheduler: Scheduler) -> None:
    watched = Watched(scheduler)
    tickets = [watched.submit("ab"[i], ENDLESS) for i in range(2)]
    for name in "ab":
        watched.until(name, Token)
    tickets += [watched.submit(name, ENDLESS) for name in "cd"]
    with pytest.raises(ApiError, match="2 requests wait") as caught:
        watched.submit("e", ENDLESS)
    assert caught.value.status == 429
    assert int(caught.value.headers["Retry-After"]) >= 1
    tickets[0].cancel()  # its session goes to the next in the queue at once
    watched.until("c", Token)
    for ticket in tickets:
        ticket.cancel()
    watched.submit("f", replace(ENDLESS, max_tokens=1))
    watched.until("f", Finished)


def test_a_mistake_of_the_server_ends_only_the_request_that_met_it(scheduler: Scheduler) -> None:
    watched = Watched(scheduler)
    good = watched.submit("good", ENDLESS)
    watched.until("good", Token)
    watched.submit("bad", replace(ENDLESS, sampling="nonsense"))  # type: ignore[arg-type]
    error = watched.until("bad", Failed)[-1][1]
    assert isinstance(error, Failed)
    assert "the server made a mistake" in str(error.error)
    watched.until("good", Token)
    good.cancel()


def test_jobs_end_at_their_time_limit(demo: Path) -> None:
    scheduler = Scheduler(Bundles([open_bundle(demo, 500)], Options(sessions=1)), Limits(seconds=0.3))
    watched = Watched(scheduler)
    watched.submit("a", ENDLESS)
    watched.submit("b", ENDLESS)
    failed: dict[str, str] = {}
    while len(failed) < 2:
        name, event = watched.all.get(timeout=100)
        assert not isinstance(event, Finished)
        if isinstance(event, Failed):
            failed[name] = str(event.error)
    assert "took longer than the server's time limit" in failed["a"]
    assert "waited longer than the time limit" in failed["b"]
    scheduler.close()


def test_closing_ends_what_goes_on_and_what_waits(demo: Path) -> None:
    scheduler = Scheduler(Bundles([open_bundle(demo, 500)], Options(sessions=1)), Limits())
    watched = Watched(scheduler)
    watched.submit("a", ENDLESS)
    watched.until("a", Token)
    watched.submit("b", ENDLESS)
    scheduler.close()
    assert "shutting down" in str(watched.until("b", Failed)[-1][1])
    with pytest.raises(ApiError, match="shutting down"):
        watched.submit("c", ENDLESS)


def test_the_least_used_bundle_leaves_when_the_budget_is_short(demo: Path, plain: Path, tmp_path: Path) -> None:
    third = tmp_path / "third.edgekit"
    third.symlink_to(plain, target_is_directory=True)
    found = [open_bundle(demo, 64), open_bundle(plain, 64), open_bundle(tmp_path / "third.edgekit", 64)]
    found[2] = replace(found[2], id="third")
    options = Options(sessions=1, context=64)
    floor = plan_bundle(demo, options).floor_bytes
    ram = 2 * floor + (400 << 10)  # two of the three
    bundles = Bundles(found, replace(options, ram=ram))
    with pytest.raises(BudgetError):
        Bundles(found, replace(options, ram=floor // 2))
    with pytest.raises(RuntimeFailure, match="same name"):
        Bundles([found[0], found[0]], options)
    scheduler = Scheduler(bundles, Limits())
    watched = Watched(scheduler)
    texts: dict[str, list[str]] = {}
    for name in ("demo", "plain", "demo", "third", "plain", "demo", "third"):
        watched.submit(name, Job(name, (3, 4, 5), 6, GREEDY, ignore_eos=True))
        events = watched.until(name, (Finished, Failed))
        assert isinstance(events[-1][1], Finished)
        texts.setdefault(name, []).append("".join(e.text for _, e in events if isinstance(e, Token)))
        time.sleep(0.3)  # until the scheduler has looked
        models = {m.id: m for m in scheduler.snapshot.models}
        assert name in models
        assert len(models) <= 2
        assert sum(m.budget for m in models.values()) <= ram
        assert sum(m.peak_memory for m in models.values() if m.id == name) <= ram
        if name == "third":
            assert "plain" not in models or texts["plain"][1:]  # it was used before demo
    assert all(len(set(t)) == 1 for t in texts.values())
    scheduler.close()


def test_what_is_in_use_does_not_leave(demo: Path, plain: Path) -> None:
    options = Options(sessions=1, context=400)
    floor = plan_bundle(demo, options).floor_bytes
    bundles = Bundles([open_bundle(demo, 400), open_bundle(plain, 400)], replace(options, ram=floor + (200 << 10)))
    scheduler = Scheduler(bundles, Limits())
    watched = Watched(scheduler)
    first = watched.submit("a", ENDLESS)
    watched.until("a", Token)
    watched.submit("b", Job("plain", (3, 4), 2, GREEDY, ignore_eos=True))
    events = [watched.all.get(timeout=100) for _ in range(20)]
    assert {name for name, _ in events} == {"a"}
    first.cancel()
    watched.until("b", Finished)
    scheduler.close()


# --- through the server ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(endless: Path) -> Iterator[Running]:
    """One session, one in the queue."""
    running = Running(endless, "--ram", NARROW_RAM, "--parallel", 1, "--queue", 1, "--ctx-size", 12_000)
    yield running
    running.stop()


ASKED = {"model": "demo", "prompt": "Once", "max_tokens": 11_000, "ignore_eos": True, "temperature": 0}


def send(running: Running, body: dict[str, Any]) -> socket.socket:
    """A request whose answer is not read."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", running.port))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_session(narrow: Running, stream: bool) -> None:
    before = narrow.metric("generated_tokens_total")
    connection = send(narrow, {**ASKED, "stream": stream})
    narrow.wait_for("busy", 1)
    if stream:
        assert connection.recv(10)
    connection.close()
    narrow.wait_for("busy", 0)
    assert narrow.metric("generated_tokens_total") - before < 11_000
    done = narrow.client().completions.create(model="demo", prompt="Once", max_tokens=2, temperature=0)
    assert done.usage is not None
    assert done.usage.completion_tokens == 2


def test_one_who_waits_and_leaves_is_forgotten(narrow: Running) -> None:
    first = send(narrow, {**ASKED, "stream": True})
    narrow.wait_for("busy", 1)
    second = send(narrow, {**ASKED, "stream": True})
    narrow.wait_for("queue_length", 1)
    with pytest.raises(openai.RateLimitError) as caught:
        narrow.client().completions.create(model="demo", prompt="Once")
    assert int(caught.value.response.headers["retry-after"]) >= 1
    second.close()
    narrow.wait_for("queue_length", 0)
    first.close()
    narrow.wait_for("busy", 0)


def test_a_client_that_leaves_while_it_is_sent_to_is_not_computed_for(endless: Path) -> None:
    scheduler = Scheduler(Bundles([open_bundle(endless, 12_000)], Options(sessions=1)), Limits())
    body = json.dumps({**ASKED, "stream": True}).encode()
    begun, sending = [], asyncio.Event()

    async def receive() -> Any:
        if not begun:
            begun.append(True)
            return {"type": "http.request", "body": body, "more_body": False}
        await sending.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sending.set()
            await asyncio.sleep(1000)

    scope = {
        "type": "http", "asgi": {"spec_version": "2.3"}, "http_version": "1.1", "method": "POST", "query_string": b"",
        "path": "/v1/completions", "raw_path": b"/v1/completions", "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    watched = Watched(scheduler)

    async def leave() -> None:
        await Server(scheduler, Guard()).app()(scope, receive, send)
        watched.submit("next", Job("demo", (3, 4), 2, GREEDY, ignore_eos=True))
        await asyncio.to_thread(watched.until, "next", Finished)

    gc.disable()  # what an abandoned generator holds must not wait for it
    try:
        asyncio.run(leave())
    finally:
        gc.enable()
    assert scheduler.counters.generated_tokens < 11_000
    scheduler.close()


def test_many_clients_come_and_go(narrow: Running) -> None:
    def visit(number: int) -> None:
        connection = send(narrow, {**ASKED, "stream": number % 2 == 0})
        if number % 3 == 0:
            connection.settimeout(0.5)  # an answer that is not streamed comes when its 11,000 tokens are there
            with suppress(TimeoutError):
                connection.recv(10)
        connection.close()

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    narrow.wait_for("busy", 0)
    narrow.wait_for("queue_length", 0)
    assert narrow.metric("peak_memory_bytes") <= NARROW_RAM
    assert narrow.client().completions.create(model="demo", prompt="Once").choices


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_and_what_it_was_doing(endless: Path, number: signal.Signals) -> None:
    running = Running(endless, "--parallel", 1, "--ctx-size", 12_000)
    connection = send(running, {**ASKED, "stream": True})
    running.wait_for("busy", 1)
    assert connection.recv(10)
    running.process.send_signal(number)
    rest = b""
    while part := connection.recv(65536):
        rest += part
    assert b"shutting_down" in rest
    _, err = running.process.communicate(timeout=60)
    connection.close()
    assert running.process.returncode in (130, 143, -number)
    assert "Traceback" not in err


def test_a_busy_session_lends_its_prompt(scheduler: Scheduler) -> None:
    watched = Watched(scheduler)
    beginning = tuple(3 + i % 50 for i in range(100))
    first = watched.submit("busy", replace(ENDLESS, ids=(*beginning, 7)))
    watched.until("busy", Token)
    watched.submit("later", Job("demo", (*beginning, 8, 9), 5, GREEDY))
    later = [event for name, event in watched.until("later", Finished) if name == "later"]
    first.cancel()
    scheduler.wake()
    watched.until("busy", Failed)
    assert isinstance(later[0], Started)
    assert later[0].cached_tokens == len(beginning)
    watched.submit("alone", Job("demo", (*beginning, 8, 9), 5, GREEDY))
    alone = [event for name, event in watched.until("alone", Finished) if name == "alone"]
    assert [e.token for e in alone if isinstance(e, Token)] == [e.token for e in later if isinstance(e, Token)]
