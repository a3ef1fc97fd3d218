"""Several sessions of a model advanced in one pass: what is read of the weights serves all of them."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from contextlib import ExitStack

from edgekit.errors import EdgekitError, RuntimeFailure
from edgekit.runtime import native
from edgekit.runtime.session import Session


def advance_together(sessions: Sequence[Session]) -> list[EdgekitError | None]:
    """Takes the token that each session chose last into its text; `Session.next` of each then only chooses.

    Each session gets what it gets alone, bit for bit (edgekit_sessions_advance).

    Args:
        sessions: different ones of one model.

    Returns:
        For each session None, or why it failed; it is then as before.

    Raises:
        RuntimeFailure: a session is closed or given twice, or they are of several models; nothing was done.
    """
    if not sessions:
        return []
    errors, first = (native.Error * len(sessions))(), native.Error()
    with ExitStack() as stack:
        handles = [stack.enter_context(session.handle.use()) for session in sessions]
        if len(set(map(id, sessions))) < len(sessions) or any(s.model is not sessions[0].model for s in sessions):
            raise RuntimeFailure("sessions that advance together must be different ones of one model")
        array = (c.c_void_p * len(handles))(*[handle.value for handle in handles])
        native.library().edgekit_sessions_advance(array, len(handles), errors, c.byref(first))
    return [native.error_from(error.status, error) if error.status else None for error in errors]
