"""The jobs of one request, from the side of the event loop that waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from edgekit.serve.job import Event, Failed, Finished, Job, Ticket
from edgekit.serve.scheduler import Scheduler


class Calls:
    """Events of a request's jobs, as they happen. Leaving the context cancels what goes on."""

    def __init__(self, scheduler: Scheduler, jobs: tuple[Job, ...]) -> None:
        """Submits the jobs; within a running event loop.

        Raises:
            ApiError: the queue is full.
        """
        self._scheduler, self._left = scheduler, len(jobs)
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        emits = [self._emit(i) for i in range(len(jobs))]
        self._tickets: list[Ticket] = scheduler.submit(list(jobs), emits)

    def _emit(self, index: int) -> Callable[[Event], None]:
        def emit(event: Event) -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return emit

    async def __aenter__(self) -> Calls:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Nobody waits for the texts any more."""
        for ticket in self._tickets:
            ticket.cancel()
        self._scheduler.wake()

    async def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        """Events with the number of their job, until all have ended."""
        while self._left:
            index, event = await self._events.get()
            self._left -= isinstance(event, Finished | Failed)
            yield index, event
