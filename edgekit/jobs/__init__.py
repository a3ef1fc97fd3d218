"""Where independent pieces of work are done: on threads of this process, or by the workers of a Dask cluster."""

from edgekit.jobs.base import Executor, executor_for
from edgekit.jobs.threads import Threads

__all__ = ["Executor", "Threads", "executor_for"]
