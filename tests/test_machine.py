"""Threads by default are as many as the cores that the process may use, not as the machine has."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import os
from edgekit.machine import usable_cpus
every = os.sched_getaffinity(0)
assert usable_cpus() == len(every)
os.sched_setaffinity(0, {min(every)})
print(usable_cpus())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to cores")
def test_cores_that_the_process_may_not_use_do_not_count() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["1"]
