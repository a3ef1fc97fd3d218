"""Handles of the C ABI that no thread uses after another has closed them."""

from __future__ import annotations

import ctypes as c
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgekit.errors import RuntimeFailure


class Handle:
    """An open handle. Every call takes it by `use`; `close` waits until no call is under way."""

    def __init__(self, value: c.c_void_p, name: str, destroy: Callable[[c.c_void_p], None]) -> None:
        """Takes a handle over; `name` is what messages call it, `destroy` frees it."""
        self._value, self._name, self._destroy = value, name, destroy
        self._users = 0
        self._changed = threading.Condition()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return not self._value

    @contextmanager
    def use(self) -> Iterator[c.c_void_p]:
        """The C handle, for one call.

        Raises:
            RuntimeFailure: it is closed.
        """
        with self._changed:
            if not self._value:
                raise RuntimeFailure(f"the {self._name} is closed")
            value = self._value
            self._users += 1
        try:
            yield value
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def close(self, before: Callable[[c.c_void_p], None] | None = None) -> None:
        """Frees it, when the calls that are under way have returned; safe to call twice.

        Args:
            before: called with the handle first, to end those calls.
        """
        with self._changed:
            value, self._value = self._value, c.c_void_p()
        if not value:
            return
        if before is not None:
            before(value)
        with self._changed:
            self._changed.wait_for(lambda: self._users == 0)
        self._destroy(value)
