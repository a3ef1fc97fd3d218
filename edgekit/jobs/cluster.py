"""Jobs on the workers of a Dask cluster.

A worker gets a job and gives back all of its pieces, so no more jobs are under way than there are threads of workers
and one more for each worker. Dask gives the job of a worker that died to another one. Dask sends pickles: whoever
reaches the scheduler can run code on the workers and here, as its manual says, so a cluster belongs
on a network of one's own.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgekit.errors import ConvertError, MissingPackageError
from edgekit.jobs.base import Executor, Item, Job, Piece, Result
from edgekit.version import __version__

ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d{1,5}")
TIMEOUT = 10  # seconds until a scheduler counts as absent


class Cluster(Executor):
    """The workers that a client of Dask knows."""

    def __init__(self, client: Any) -> None:
        """`client`: of `distributed`, connected."""
        self.client = client

    def run(
        self,
        items: Sequence[Item],
        prepare: Callable[[Item], Job],
        work: Callable[[Job], Iterator[Piece]],
        take: Callable[[Item, Iterator[Piece]], Result],
    ) -> Generator[tuple[Item, Result], None, None]:
        """See `Executor.run`."""
        from distributed import KilledWorker, as_completed

        pending = list(items)
        running: dict[Any, Item] = {}
        finished = as_completed(loop=self.client.loop)
        try:
            while pending or running:
                while pending and len(running) < self._slots():
                    item = pending.pop(0)
                    future = self._submitted(work, prepare(item))
                    running[future] = item
                    finished.add(future)
                future = next(finished)
                item = running.pop(future)
                try:
                    pieces = future.result()
                except KilledWorker as error:
                    raise ConvertError(
                        "the cluster's workers died again and again of one job; give them more memory, look into their "
                        "logs, and run the same command again: what is done is kept"
                    ) from error
                future.release()
                yield item, take(item, iter(pieces))
        finally:
            self.client.cancel(list(running))

    def _submitted(self, work: Callable[[Job], Iterator[Piece]], job: Job) -> Any:
        """A future. The job travels whole, so that another worker can do it again when one dies."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")  # Hessians are
            return self.client.submit(_pieces, work, job, pure=False)

    def _slots(self) -> int:
        """Jobs under way at once: a next one waits at each worker."""
        threads = self.client.nthreads().values()
        return sum(threads) + len(threads) or 1


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """A cluster by the address of its scheduler.

    Raises:
        ConvertError: no scheduler there, no workers, or workers without this version of edgekit.
        MissingPackageError: the extra is not installed.
    """
    if not ADDRESS.fullmatch(address):
        raise ConvertError(f"--cluster {address!r}: give the scheduler's address, as in tcp://HOST:8786")
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingPackageError('--cluster needs Dask: pip install "edgekit[cluster]"') from error
    try:
        client = Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConvertError(
            f"--cluster {address}: no Dask scheduler answers; start one with 'dask scheduler' and give its address, as "
            "in tcp://HOST:8786"
        ) from error
    try:
        _check_workers(address, client.run(_version, on_error="return"))
        yield Cluster(client)
    finally:
        client.close()


def _check_workers(address: str, versions: dict[str, Any]) -> None:
    """Refuses a cluster that would do the work in another way, or not at all."""
    if not versions:
        raise ConvertError(f"--cluster {address}: has no workers; start some with 'dask worker {address}'")
    for worker, version in sorted(versions.items()):
        if isinstance(version, Exception):
            raise ConvertError(f"worker {worker}: cannot import edgekit {__version__}; install it there")
        if version != __version__:
            raise ConvertError(f"worker {worker}: has edgekit {version}, this is {__version__}; install the same there")


def _version() -> str:
    return __version__


def _pieces(work: Callable[[Job], Iterator[Piece]], job: Job) -> list[Piece]:
    """A whole job, on a worker."""
    return list(work(job))
