"""A budget that cannot be set changes nothing: the text goes on as it was, and a later try may succeed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options
from tests.conftest import ROOT
from tests.runtime.test_faults import FORBID, bundle  # noqa: F401 (fixtures)

# Sets a budget that must fail in the midst of a text, then one that must not.
PROGRAM = """
import json, os, resource, sys
from pathlib import Path
from edgekit.errors import EdgekitError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
job = json.loads(sys.argv[1])
tokens = list(range(3, 43))

def follow(session, fault, budget):
    session.reset()
    out, error = [], ""
    for i, token in enumerate(tokens):
        if i == 20:
            before = session.plan
            undo = FAULTS[fault]()
            try:
                session.set_budget(budget)
            except EdgekitError as caught:
                error = str(caught)
            undo()
            same = session.plan == before
        out += session.logits([token])[0].tolist()
    return out, error, same

def limit_address_space():
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + job["slack"], old[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_AS, old)

def fail_reads():
    os.environ["FAULT"] = job["reads"]
    return lambda: os.environ.pop("FAULT")

FAULTS = {"none": lambda: lambda: None, "memory": limit_address_space, "reads": fail_reads}

with Session(job["bundle"], Options(**job["options"])) as session:
    want = []
    for token in tokens:
        want += session.logits([token])[0].tolist()
    memory = session.stats.memory_bytes
    out, error, same = follow(session, job["fault"], job["budget"])
    assert out == want
    held = session.stats.memory_bytes
    again, later, _ = follow(session, "none", job["later"])
    assert again == want
    print(json.dumps({"error": error, "same": same, "memory": held - memory, "later": later,
                      "resident": session.plan.resident_bytes, "read": session.stats.generation_bytes_read}))
"""

OPTIONS = {"context": 64, "batch": 8, "threads": 2, "select": "exact"}


def follow(
    bundle: Path,  # noqa: F811
    fault: str,
    budget: int | None,
    later: int | None,
    *,
    prelude: str = "",
    preload: Path | None = None,
    slack: int = 0,
    reads: str = "eio:1",
    **options: object,
) -> dict:
    job = {"bundle": str(bundle), "options": {**OPTIONS, **options}, "fault": fault, "slack": slack, "reads": reads}
    done = subprocess.run(
        [sys.executable, "-c", prelude + PROGRAM, json.dumps({**job, "budget": budget, "later": later})],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **({"LD_PRELOAD": str(preload)} if preload else {})},
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr}"
    return json.loads(done.stdout)


def tight(bundle: Path) -> int:  # noqa: F811
    return plan_bundle(bundle, Options(context=64, batch=8, select="exact")).floor_bytes + 40960


pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="address space and system calls are limited as in Linux"
)


@pytest.mark.parametrize("select", ["exact", "all"])
@pytest.mark.parametrize("slack", [0, 1 << 20, 9 << 20])
def test_a_ring_that_the_system_refuses_memory_leaves_all_weights_resident(
    bundle: Path,  # noqa: F811
    select: str,
    slack: int,
) -> None:
    got = follow(bundle, "memory", tight(bundle), tight(bundle), slack=slack, engine="threads", select=select)
    assert got["error"]
    assert got["same"]
    assert got["memory"] == 0
    assert got["later"] == ""
    assert got["read"] > 0


def test_a_ring_without_io_uring_leaves_all_weights_resident(bundle: Path) -> None:  # noqa: F811
    got = follow(bundle, "none", tight(bundle), None, prelude=FORBID, engine="uring")
    assert "does not allow io_uring" in got["error"]
    assert got["same"]
    assert got["memory"] == 0
    assert got["later"] == ""
    assert got["read"] == 0


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("select", ["exact", "all"])
def test_growth_that_fails_while_it_reads_changes_nothing(
    bundle: Path,  # noqa: F811
    read_faults: Path,
    first: int,
    select: str,
) -> None:
    got = follow(
        bundle,
        "reads",
        None,
        None,
        preload=read_faults,
        reads=f"eio:{first}",
        ram=tight(bundle),
        engine="threads",
        select=select,
    )
    assert "flash.bin" in got["error"]
    assert got["same"]
    assert got["memory"] == 0
    assert got["later"] == ""
