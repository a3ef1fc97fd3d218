"""What an executor is: it does jobs that depend on nothing but their own values, a bounded number at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Job = TypeVar("Job")
Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Executor(ABC):
    """Does jobs, wherever that is."""

    @abstractmethod
    def run(
        self,
        items: Sequence[Item],
        prepare: Callable[[Item], Job],
        work: Callable[[Job], Iterator[Piece]],
        take: Callable[[Item, Iterator[Piece]], Result],
    ) -> Generator[tuple[Item, Result], None, None]:
        """Does one job an item, in any order, and yields each item with its result when it is done.

        Close the iterator when it is left early: jobs that have not begun are then dropped.

        Args:
            items: what is to be done.
            prepare: makes an item's job, shortly before it begins; called in this process.
            work: does a job and yields the pieces of its outcome; a function of a module, called anywhere.
            take: makes a result of the pieces; called in this process, maybe in several threads at once.
        """


@contextmanager
def executor_for(threads: int, cluster: str | None) -> Iterator[Executor]:
    """The executor of a command: a Dask cluster's workers if its scheduler's address is given, else threads.

    Raises:
        ConvertError: no such cluster, no workers, or workers that cannot do the work.
    """
    from edgekit.jobs.threads import Threads

    if cluster is None:
        yield Threads(threads)
        return
    from edgekit.jobs.cluster import connected

    with connected(cluster) as executor:
        yield executor
