"""Reads that fail in the midst of a text: a call that fails changes nothing, and the text goes on when they succeed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.conversion import convert
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options
from tests import tiny
from tests.conftest import DEMO, ROOT

# Defines a text of the bundle's and how to go on with it, for the programs below.
SETUP = """
import ctypes, json, os, sys
from pathlib import Path
from edgekit.errors import EdgekitError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
job = json.loads(sys.argv[1])
GREEDY = Sampling(temperature=0)
PROMPT = list(range(3, 9))
LENGTH = 6

class Faults:
    def __init__(self, fault):
        self.fault = fault
    def __enter__(self):
        ctypes.CDLL(None).restart_faults()
        os.environ["FAULT"] = self.fault
    def __exit__(self, *_):
        del os.environ["FAULT"]

def attempt(call):
    try:
        return call(), ""
    except EdgekitError as error:
        return None, str(error)

def choose(session):
    # The logarithms show every bit of the logits, where a token may hide that a weight is wrong.
    return session.next(GREEDY), session.logprobs(session.vocab_size)

def begin(session):
    session.reset()
    session.eval(PROMPT)
    return [choose(session)]

def finish(session, text, tries=1):
    # Up to `tries` calls may find a read that failed before.
    for _ in range(tries - 1):
        token, error = attempt(lambda: choose(session))
        if not error:
            text.append(token)
            break
    while len(text) < LENGTH:
        text.append(choose(session))
    return text[:LENGTH]
"""

NEXT = """
counts = {"errors": 0, "right": 0}
with Session(job["bundle"], Options(**job["options"])) as session:
    want = finish(session, begin(session))
    for fault in job["faults"]:
        text = begin(session)
        before = session.tokens
        with Faults(fault):
            token, error = attempt(lambda: choose(session))
        if error:
            assert "flash.bin" in error, error
            assert session.tokens == before
        else:
            text.append(token)
        counts["errors" if error else "right"] += 1
        got = finish(session, text, tries=3)
        assert got == want, fault
print(json.dumps(counts))
"""

# The budget is set while reads for the next token are under way; it is the same, so that nothing else is read.
DRAIN = """
counts = {"token": 0, "ahead": 0}
ram, restart = job["options"]["ram"], ctypes.CDLL(None).restart_faults
with Session(job["bundle"], Options(**job["options"])) as session:
    want = finish(session, begin(session))
    text = begin(session)
    with Faults("late:1000000"):
        choose(session)
        session.set_budget(ram)
        reads = restart()
    # How many reads there are varies with their order, so not every round meets those ahead.
    for first in 8 * list(range(reads - 4, reads + 12)):
        if counts["ahead"] > 1:
            break
        text = begin(session)
        with Faults(f"late:{first}"):
            token, error = attempt(lambda: choose(session))
            session.set_budget(ram)
            failed = restart() >= first
        if not error:
            text.append(token)
        counts["token"] += bool(error)
        counts["ahead"] += failed and not error
        got = finish(session, text)
        assert got == want, first
print(json.dumps(counts))
"""

TWICE = """
counts = {"refused": 0, "set": 0, "lost": 0}
with Session(job["bundle"], Options(**job["options"])) as session:
    want = finish(session, begin(session))
    for before in job["budgets"]:
        for after in job["budgets"]:
            session.set_budget(before)
            text, plan = begin(session), session.plan
            with Faults("eio:1"):
                errors = [attempt(lambda: session.set_budget(after))[1] for _ in range(2)]
            assert bool(errors[0]) == bool(errors[1]), errors
            if errors[0]:
                assert all("flash.bin" in error for error in errors), errors
                counts["lost"] += session.plan != plan  # what was given up could not be read again
                assert session.plan.budget_bytes == plan.budget_bytes
            counts["refused" if errors[0] else "set"] += 1
            assert finish(session, text) == want
            session.set_budget(after)
            assert finish(session, begin(session)) == want
print(json.dumps(counts))
"""

CUT = """
flash = Path(job["bundle"]) / "flash.bin"
whole = flash.read_bytes()
counts = {"errors": 0}
with Session(job["bundle"], Options(**job["options"])) as session:
    want = finish(session, begin(session))
    for size in (0, 4096, len(whole) // 2, len(whole) - 1):
        text = begin(session)
        os.truncate(flash, size)
        before, length = session.tokens, len(text)
        for _ in range(3):
            token, error = attempt(lambda: choose(session))
            if error:
                assert "flash.bin" in error, error
                counts["errors"] += 1
            else:
                text.append(token)  # what it needed was read before, or lies before the cut
        with flash.open("r+b") as file:
            file.write(whole)
        got = finish(session, text, tries=3)
        assert got == want, size
print(json.dumps(counts))
"""

OPTIONS = {"context": 64, "batch": 8, "threads": 2, "engine": "threads"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads fail by LD_PRELOAD")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("reads") / "bundle", "q8", layout="split").path


def floor(bundle: Path, select: str) -> int:
    return plan_bundle(bundle, Options(context=64, batch=8, select=select)).floor_bytes


def run(
    program: str, bundle: Path, preload: Path | None, select: str, more: int = 40960, **job: object
) -> dict[str, int]:
    options = {**OPTIONS, "select": select, "ram": floor(bundle, select) + more}
    given = json.dumps({"bundle": str(bundle), "options": options, **job})
    done = subprocess.run(
        [sys.executable, "-c", SETUP + program, given],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **({"LD_PRELOAD": str(preload)} if preload else {})},
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr}"
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


# At the floor, and with a window of neurons, whose reads are others than those of the stream.
@pytest.mark.parametrize(("select", "more"), [("all", 40960), ("exact", 40960), ("exact", 1 << 20)])
def test_a_token_whose_reads_fail_can_be_asked_for_again(
    bundle: Path, read_faults: Path, select: str, more: int
) -> None:
    faults = [f"{kind}:{first}" for kind in ("eio", "late") for first in (1, 2, 5, 19, 33, 47, 61)]
    assert run(NEXT, bundle, read_faults, select, more, faults=faults)["errors"] == len(faults)


def test_a_recurrent_state_is_as_before_the_pass_that_failed(tmp_path: Path, read_faults: Path) -> None:
    tiny.make("qwen3_next", tmp_path / "checkpoint")
    shutil.copyfile(DEMO / "tokenizer.json", tmp_path / "checkpoint" / "tokenizer.json")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    faults = [f"eio:{first}" for first in range(1, 8)]  # a pass at the floor has eight reads
    assert run(NEXT, bundle, read_faults, "all", 0, faults=faults)["errors"] >= 6


@pytest.mark.parametrize("select", ["all", "exact"])
def test_reads_ahead_that_fail_while_a_budget_is_set_change_no_text(
    bundle: Path, read_faults: Path, select: str
) -> None:
    assert run(DRAIN, bundle, read_faults, select, more=1 << 20)["ahead"] > 0


@pytest.mark.parametrize("select", ["all", "exact"])
def test_a_budget_that_fails_twice_leaves_the_old_plan(bundle: Path, read_faults: Path, select: str) -> None:
    steps = [40960, 390960, 1090960, 16 << 20]  # from the floor to what holds every weight
    counts = run(TWICE, bundle, read_faults, select, budgets=[floor(bundle, select) + step for step in steps])
    assert counts["refused"] >= 3
    assert counts["set"] >= 3  # less memory needs no reads
    assert counts["lost"] >= (select == "all")


@pytest.mark.parametrize("select", ["all", "exact"])
def test_a_file_that_is_cut_while_it_is_open_gives_errors_and_no_wrong_text(
    bundle: Path, tmp_path: Path, select: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    assert run(CUT, copy, None, select)["errors"] >= 4
