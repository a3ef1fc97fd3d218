"""Jobs on threads of this process: NumPy and the native library let others run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from edgekit.jobs.base import Executor, Item, Job, Piece, Result


@dataclass(frozen=True)
class Threads(Executor):
    """As many jobs at once as there are `threads`; pieces are taken as they come, so that none pile up."""

    threads: int

    def run(
        self,
        items: Sequence[Item],
        prepare: Callable[[Item], Job],
        work: Callable[[Job], Iterator[Piece]],
        take: Callable[[Item, Iterator[Piece]], Result],
    ) -> Generator[tuple[Item, Result], None, None]:
        """See `Executor.run`."""

        def do(item: Item) -> Result:
            return take(item, work(prepare(item)))

        pending = list(items)
        running: dict[Future[Result], Item] = {}
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                while pending or running:
                    while pending and len(running) < self.threads:
                        item = pending.pop(0)
                        running[pool.submit(do, item)] = item
                    ready, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ready:
                        yield running.pop(future), future.result()
            finally:
                for future in running:
                    future.cancel()
