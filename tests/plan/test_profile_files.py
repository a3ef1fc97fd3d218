"""A profile that is torn, stale or foreign does not stop a run, and none is ever written in part."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.files import write_atomically
from edgekit.plan import device
from tests.conftest import ROOT
from tests.plan.test_plan import made_up

GOOD = json.dumps(asdict(made_up()))
BAD = {
    "torn": GOOD[: len(GOOD) // 2],
    "empty": "",
    "stale": GOOD.replace(f'"version": {device.VERSION}', '"version": 1'),
    "no reads": json.dumps({**asdict(made_up()), "reads": []}),
    "rates of nothing": json.dumps({**asdict(made_up()), "stream": 0}),
    "rates in words": json.dumps({**asdict(made_up()), "stream": "fast"}),
    "nested": "[" * 100_000,
    "bytes": "\udcff",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = ROOT / "examples" / "demo_model" / "checkpoint"
    return convert(demo, tmp_path_factory.mktemp("profile") / "demo", "q4").path


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_run_ignores_a_bad_profile_with_a_warning(
    text: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = device.default_path()
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert main(["run", str(bundle), "-p", "Once", "-n", "3", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert len(report["token_ids"]) == 3
    assert report["expected_tokens_per_second"] is None
    assert captured.err.startswith("edgekit: warning: ignored ")
    assert "run 'edgekit profile' again" in captured.err
    assert captured.err.count("\n") == 1
    assert main(["plan", str(bundle)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_write_that_fails_leaves_the_old_profile(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \udcff")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["profile.json"]


def test_a_profile_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made_up().save(tmp_path / "a" / "profile.json")
    assert device.load(tmp_path / "a" / "profile.json") == made_up()
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeFailure, match="cannot write"):
        made_up().save(tmp_path / "file" / "profile.json")
