"""One thread that computes for all requests: a queue with a limit, sessions, and rounds in which each gets its turn."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from edgekit.errors import EdgekitError
from edgekit.serve.bundles import Bundles, Loaded, Slot
from edgekit.serve.errors import ApiError, internal
from edgekit.serve.job import Event, Failed, Job, Ticket
from edgekit.serve.metrics import Counters, Snapshot, take_snapshot
from edgekit.serve.reading import Reading
from edgekit.serve.run import Run
from edgekit.serve.step import step

SNAPSHOT_SECONDS = 0.25  # between looks at the runtime's counters


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        queue: most jobs that wait for a session.
        seconds: most time of a job, waiting included.
    """

    queue: int = 32
    seconds: float = 600.0


def shutting_down() -> ApiError:
    """The answer of a server that is about to end."""
    return ApiError(503, "the server is shutting down", "shutting_down")


class Scheduler:
    """Runs jobs. Fair: in each round every session that writes gets one token, and one that reads its prompt gets one
    piece of it, so that a long prompt does not hold up the others."""

    def __init__(self, bundles: Bundles, limits: Limits) -> None:
        """Starts the thread; `close` ends it."""
        self.bundles, self.limits = bundles, limits
        self.counters = Counters()
        self._waiting: deque[Ticket] = deque()
        self._budgets: deque[tuple[int, Future[None]]] = deque()
        self._readings: deque[Reading] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._turn = 0
        self._snapshot, self._looked = Snapshot(), 0.0
        self._thread = threading.Thread(target=self._work, name="edgekit-scheduler", daemon=True)
        self._thread.start()

    def submit(self, jobs: list[Job], emits: list[Callable[[Event], None]]) -> list[Ticket]:
        """Takes jobs on, all or none. From any thread.

        Raises:
            ApiError: too many wait already; the headers say when to come again.
        """
        deadline = time.monotonic() + self.limits.seconds
        tickets = [Ticket(job, emit, deadline) for job, emit in zip(jobs, emits, strict=True)]
        with self._changed:
            self._check_room(len(tickets))
            self._waiting.extend(tickets)
            self._changed.notify_all()
        return tickets

    def read(self, reading: Reading) -> None:
        """Takes on texts that are to have vectors or scores; `Reading.done` has them in the end. From any thread.

        Raises:
            ApiError: too many requests wait already.
        """
        reading.deadline = time.monotonic() + self.limits.seconds
        with self._changed:
            self._check_room(1)
            self._readings.append(reading)
            self._changed.notify_all()

    def _check_room(self, count: int) -> None:
        """Refuses requests that the queue has no room for."""
        if self._closing:
            raise shutting_down()
        waiting = sum(not t.cancelled for t in self._waiting) + len(self._readings)
        if waiting + count > self.limits.queue:
            self.counters.refused += 1
            raise ApiError(
                429,
                f"{waiting} requests wait already; try again later",
                "queue_full",
                headers={"Retry-After": str(self._retry_after(waiting))},
            )

    def _retry_after(self, waiting: int) -> int:
        """Seconds after which there is probably room."""
        return max(1, min(60, round(self.counters.mean_seconds * (1 + waiting) / 4)))

    def set_budget(self, ram: int) -> Future[None]:
        """Changes the memory budget of all models together, between two passes. From any thread.

        Returns:
            done when memory is as it should be; or with a BudgetError, and then nothing has changed.
        """
        done: Future[None] = Future()
        with self._changed:
            if self._closing:
                raise shutting_down()
            self._budgets.append((ram, done))
            self._changed.notify_all()
        return done

    def _change_budgets(self) -> None:
        with self._changed:
            wanted, self._budgets = list(self._budgets), deque()
        for ram, done in wanted:
            try:
                self.bundles.set_ram(ram)
                self._look(at_once=True)
                done.set_result(None)
            except EdgekitError as error:
                done.set_exception(error)
            except Exception as error:
                done.set_exception(internal(error))

    def wake(self) -> None:
        """Looks at cancelled jobs soon. From any thread."""
        with self._changed:
            self._changed.notify_all()

    @property
    def snapshot(self) -> Snapshot:
        """The latest look at queue, sessions and memory. From any thread."""
        return self._snapshot

    def close(self) -> None:
        """Ends all jobs and the thread, and frees the models."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        try:
            while True:
                if self._idle() and not self._closing and self.bundles.keep_one():
                    continue
                with self._changed:
                    if self._closing:
                        break
                    if self._idle():
                        self._look(at_once=True)
                        self._changed.wait()
                        continue
                self._change_budgets()
                self._admit()
                self._read_some()
                self._round()
                self._look()
        finally:
            self._end_all()
            self.bundles.close()

    def _idle(self) -> bool:
        return not (self._running() or self._waiting or self._budgets or self._readings)

    def _running(self) -> list[tuple[Loaded, Slot]]:
        return [(m, s) for m in self.bundles.loaded.values() for s in m.slots if s.run is not None]

    def _admit(self) -> None:
        """Gives free sessions to those who wait, first come, first served; a model that is full holds up no other."""
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
        kept: list[Ticket] = []
        blocked: set[str] = set()  # models without a free session
        full = False  # a model is to be loaded and has no room: who came later waits, so that the others end
        for ticket in waiting:
            if ticket.cancelled or time.monotonic() > ticket.deadline:
                self._refuse(ticket, ApiError(503, "the request waited longer than the time limit", "timeout"))
            elif full or ticket.job.model in blocked or not self._start(ticket):
                blocked.add(ticket.job.model)
                full = full or ticket.job.model not in self.bundles.loaded
                kept.append(ticket)
        with self._changed:
            self._waiting.extendleft(reversed(kept))
            if kept and not self._running():
                self._changed.wait(0.05)

    def _start(self, ticket: Ticket) -> bool:
        """Gives a job a session; False if there is none now."""
        try:
            loaded = self.bundles.get(ticket.job.model)
            slot = None if loaded is None else loaded.free_slot(ticket.job.ids)
            if loaded is None or slot is None:
                return False
            bundle = loaded.bundle
            slot.used = self.bundles.tick()
            loaded.take_beginning(slot, ticket.job.ids)
            slot.kept = False
            tiles = loaded.look(ticket.job.pictures)
            slot.run = Run(ticket, slot.session, bundle.tokenizer, bundle.eos_token_ids, loaded.whole_prompt, tiles)
            self.counters.prompt_tokens += len(ticket.job.ids)
            self.counters.cached_tokens += slot.run.cached
        except EdgekitError as error:
            self._refuse(ticket, error)
        except Exception as error:
            self._refuse(ticket, internal(error))
        return True

    def _read_some(self) -> None:
        """A few texts of the request that waits longest for vectors; then it is the next one's turn."""
        with self._changed:
            reading = self._readings.popleft() if self._readings else None
        if reading is None or not reading.step(self.bundles):
            return
        with self._changed:
            self._readings.append(reading)
            if reading.blocked and not self._running():
                self._changed.wait(0.05)

    def _refuse(self, ticket: Ticket, error: EdgekitError) -> None:
        ticket.emit(Failed(error))

    def _round(self) -> None:
        """One token for each who writes, one piece of prompt for one who reads."""
        runs = []
        for _, slot in self._running():
            assert slot.run is not None
            slot.run.give_up()
            runs.append(slot.run)
        active = [run for run in runs if not run.ended]
        reading = [run for run in active if run.reading]
        self._turn += 1
        chosen = [run for run in active if not run.reading]
        if reading:
            chosen.append(reading[self._turn % len(reading)])
        before = [run.generated for run in chosen]
        for run, outcome in zip(chosen, step([run.work() for run in chosen]), strict=True):
            run.take(outcome)
        self.counters.generated_tokens += sum(r.generated - b for r, b in zip(chosen, before, strict=True))
        self._free_ended()

    def _free_ended(self) -> None:
        for _, slot in self._running():
            if slot.run is not None and slot.run.ended:
                self.counters.count_job(time.monotonic() - slot.run.begun)
                slot.run, slot.used = None, self.bundles.tick()

    def _look(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self._looked > SNAPSHOT_SECONDS:
            self._looked = now
            self._snapshot = take_snapshot(self.bundles, len(self._waiting))

    def _end_all(self) -> None:
        error = shutting_down()
        for _, slot in self._running():
            if slot.run is not None:
                slot.run.fail(error)
                slot.run = None
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
            budgets, self._budgets = list(self._budgets), deque()
            readings, self._readings = list(self._readings), deque()
        for reading in readings:
            reading.fail(error)
        for ticket in waiting:
            self._refuse(ticket, error)
        for _, done in budgets:
            done.set_exception(error)
