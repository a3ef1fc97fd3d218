"""The programs of examples/python, run as they are."""

from __future__ import annotations

import operator
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.serve.conftest import Running

EXAMPLES = ROOT / "examples" / "python"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_openais_client_streams_an_answer(server: Running) -> None:
    assert run("openai_client.py", "Tell me of a cat.", f"{server.url}/v1").strip()


def test_the_agent_computes_what_the_model_asks_for_and_goes_on(demo: Path) -> None:
    shown = run("agent.py", demo, "What is 17 * 23?", "--must-compute")
    found = re.match(r"\[(\d+) ([-+*/]) (\d+) = (-?\d+)\]\n.", shown)
    assert found, shown
    operations = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    assert found[2] in operations, "the model divides; ask another question here"
    assert int(found[4]) == operations[found[2]](int(found[1]), int(found[3]))
