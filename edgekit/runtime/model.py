"""A bundle's weights, opened once under a budget; sessions share them. And what needs no session."""

from __future__ import annotations

import ctypes as c
import os
import resource
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgekit.bundle.adapter import adapter_file
from edgekit.runtime import native
from edgekit.runtime.handle import Handle
from edgekit.runtime.values import Options, Plan, plan_from
from edgekit.sizes import parse_bytes

if TYPE_CHECKING:
    from edgekit.runtime.session import Session


class Model:
    """Weights of a bundle. Any thread may use it; the forward passes of its sessions take turns."""

    def __init__(self, path: str | Path, options: Options | None = None) -> None:
        """Opens a bundle.

        Raises:
            BundleError: not a bundle, or damaged.
            BudgetError: the budget is below the floor, which the message names.
        """
        chosen, opened = options or Options(), c.c_void_p()
        with adapter_file(path, chosen.lora) as adapter:
            opts = chosen.native(adapter)
            native.call("model_open", encoded(path), c.byref(opts), c.byref(opened))
        self.handle = Handle(opened, "model", native.library().edgekit_model_close)
        self._closing = False
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self.draft_tokens: int = opts.draft_tokens
        info = native.Info()
        native.call("model_info", opened, c.byref(info))
        self.vocab_size: int = info.vocab_size
        self.hidden_size: int = info.hidden_size
        self.threads: int = info.threads
        self.output: str = {number: name for name, number in native.OUTPUTS.items()}[info.output]
        self.kernels: str = info.kernels.decode()
        self.picture_sizes = (info.patch_columns, info.merged_patches, info.picture_columns)

    def close(self) -> None:
        """Closes the sessions and frees the weights; safe to call twice. An evaluation under way is cancelled."""
        if self._closing:  # a session closes the model that it owns
            return
        self._closing = True
        for session in list(self._sessions):
            session.close()
        self.handle.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_sessions"):
            self.close()

    def create_session(self) -> Session:
        """Another conversation on these weights; the budget leaves room for `Options.sessions` of them.

        Raises:
            BudgetError: no room.
            RuntimeFailure: the model is closed.
        """
        from edgekit.runtime.session import Session

        return Session(self)

    def register(self, session: Session) -> None:
        """Notes a session that must be closed before the weights are."""
        self._sessions.add(session)

    def set_budget(self, ram: str | int | None) -> None:
        """Changes the memory budget; memory is given back before this returns. Results stay the same.

        Raises:
            BudgetError: below what buffers and sessions hold; nothing was changed.
        """
        with self.handle.use() as handle:
            native.call("model_set_budget", handle, parse_bytes(ram))

    def save_warm(self, path: str | Path) -> None:
        """Writes how often each unit was used to a file, for `load_warm` (edgekit_model_save_warm).

        Raises:
            RuntimeFailure: no units come through a window, it cannot be written, or a file of another bundle is there.
            BundleError: another file is there.
        """
        with self.handle.use() as handle:
            native.call("model_save_warm", handle, encoded(path))

    def load_warm(self, path: str | Path) -> None:
        """Takes the counts of a file of `save_warm`: which units the window keeps. Texts stay the same.

        Raises:
            BundleError: missing or damaged.
            RuntimeFailure: of another bundle.
        """
        with self.handle.use() as handle:
            native.call("model_load_warm", handle, encoded(path))

    @property
    def plan(self) -> Plan:
        """What the planner decided."""
        plan = native.Plan()
        with self.handle.use() as handle:
            native.call("model_plan", handle, c.byref(plan))
        return plan_from(plan)


def plan_bundle(path: str | Path, options: Options) -> Plan:
    """What opening would do, without loading weights.

    Raises:
        BudgetError: the budget is below the floor.
        BundleError: not a bundle, or damaged.
    """
    plan = native.Plan()
    with adapter_file(path, options.lora) as adapter:
        opts = options.native(adapter)
        native.call("plan_bundle", encoded(path), c.byref(opts), c.byref(plan))
    return plan_from(plan)


def verify_units(path: str | Path) -> None:
    """Reads every unit of a bundle and compares its checksum.

    Raises:
        BundleError: damaged.
    """
    native.call("verify_bundle", encoded(path))


def saved_tokens(path: str | Path) -> list[int]:
    """The tokens of a saved session of any bundle (edgekit_saved_tokens); its keys and values are not read.

    Raises:
        BundleError: missing, damaged, or no saved session.
    """
    count = c.c_uint32()
    native.call("saved_tokens", encoded(path), None, 0, c.byref(count))
    ids = (c.c_int32 * max(1, count.value))()
    native.call("saved_tokens", encoded(path), ids, len(ids), c.byref(count))
    return list(ids[: count.value])


def kernel_sets() -> list[str]:
    """Kernel sets that this CPU can run, best first."""
    names: bytes = native.library().edgekit_kernel_sets()
    return names.decode().split(",")


def process_peak_bytes() -> int:
    """Most memory that this process ever had resident, interpreter included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def encoded(path: str | Path) -> bytes:
    """A path as the C ABI takes it."""
    return os.fsencode(path)
