"""Ctrl-C while text is being generated."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.generate.loop import TextModel
from edgekit.runtime.values import Stats
from tests.conftest import ROOT

MOST = 50_000  # tokens: minutes of work


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a context that nobody waits for the end of."""
    folder = tmp_path_factory.mktemp("interrupt")
    checkpoint = folder / "checkpoint"
    shutil.copytree(ROOT / "examples" / "demo_model" / "checkpoint", checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "max_position_embeddings": MOST + 1000}))
    return convert(checkpoint, folder / "demo", "q4").path


def hear_interrupts() -> None:
    """A shell has jobs in the background ignore Ctrl-C, and they hand that on; a terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(bundle: Path, *more: object) -> subprocess.Popen[bytes]:
    arguments = ["run", bundle, "-p", "Once upon a time", "-n", MOST, "--ignore-eos", "--temp", 0, *more]
    command = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=hear_interrupts
    )


def test_an_interrupted_run_prints_the_figures_of_what_it_generated(endless: Path) -> None:
    with start(endless) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert first
    text = err.decode()
    assert "(interrupted)" in text
    assert "generation  " in text
    assert "memory      " in text
    assert "Traceback" not in text
    assert len(out) < MOST


def test_an_interrupted_run_prints_its_json_object(endless: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"  # appears when the prompt is read
    with start(endless, "--json", "--prompt-cache", cache) as process:
        while not cache.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
    report = json.loads(out)
    assert process.returncode == 130
    assert report["finish_reason"] == "interrupted"
    assert len(report["token_ids"]) < MOST
    assert report["prompt_tokens"] > 0
    assert report["peak_memory_bytes"] > 0
    assert b"Traceback" not in err


def test_ctrl_c_between_the_prompt_and_the_first_token_prints_the_report_too(
    endless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counters = TextModel.stats
    calls: list[TextModel] = []

    def interrupted(model: TextModel) -> Stats:
        """The counters; the first time that they are asked for, just after the prompt, Ctrl-C comes."""
        calls.append(model)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return counters.__get__(model)

    monkeypatch.setattr(TextModel, "stats", property(interrupted))
    status = main(["run", str(endless), "-p", "Once upon a time", "-n", "5", "--json"])
    assert status == 130
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "interrupted"
