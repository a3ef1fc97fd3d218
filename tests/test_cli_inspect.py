"""`inspect` of bundles with artifacts, whole and damaged, and of manifests that lack something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle import manifest
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.converters.base import ABOUT, ARTIFACTS, export
from tests.conftest import ROOT
from tests.plan.test_plan import made_up

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = convert(DEMO, tmp_path_factory.mktemp("inspect") / "demo", "palette4").path
    for kind in ("onnx", "onnx-exact"):
        export(path, kind)
    return path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy.edgekit"))


def inspect(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    assert main(["inspect", str(bundle), "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(bundle)]) == 0
    return table, capsys.readouterr().out


def test_artifacts_are_listed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, text = inspect(bundle, capsys)
    assert [a["kind"] for a in table["artifacts"]] == ["onnx", "onnx-exact"]
    onnx, exact = table["artifacts"]
    files = [f for f in (bundle / ARTIFACTS / "onnx").rglob("*") if f.is_file()]
    assert onnx["bytes"] == sum(f.stat().st_size for f in files)
    assert onnx["matches_bundle"] is exact["matches_bundle"] is True
    assert onnx["problem"] is exact["problem"] is None
    assert 0 < onnx["requantized_share"] <= 1
    assert exact["requantized_share"] == 0
    lines = [line for line in text.splitlines() if line.startswith("artifact ")]
    assert len(lines) == 2
    assert "re-quantized" in lines[0]
    assert "as in the bundle" in lines[1]


def test_a_bundle_without_artifacts_lists_none(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(bundle / ARTIFACTS)
    table, text = inspect(bundle, capsys)
    assert table["artifacts"] == []
    assert "artifact " not in text


def _other_bundle(folder: Path) -> None:
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**about, "bundle": "0" * 16}))


def _words_for_numbers(folder: Path) -> None:
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps({**about, "requantized_weights": "all", "precision": ["f16"]}))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "torn": lambda folder: (folder / ABOUT).write_text('{"format": "edge') and None,
    "not text": lambda folder: (folder / ABOUT).write_bytes(b"\xff\xfe") and None,
    "nested": lambda folder: (folder / ABOUT).write_text("[" * 100_000) and None,
    "nothing": lambda folder: (folder / ABOUT).unlink(),
    "a file is missing": lambda folder: next(p for p in folder.rglob("*.onnx")).unlink(),
    "other bundle": _other_bundle,
    "words": _words_for_numbers,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_artifact_is_a_line_and_no_failure(
    damage: Callable[[Path], None], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(bundle / ARTIFACTS / "onnx")
    table, text = inspect(bundle, capsys)
    broken, whole = table["artifacts"]
    assert broken["problem"]
    assert "\n" not in broken["problem"]
    assert broken["matches_bundle"] is False
    assert whole["problem"] is None
    assert broken["problem"] in text


def test_a_folder_of_no_known_kind_is_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / ARTIFACTS / "tflite").mkdir()
    table, text = inspect(bundle, capsys)
    assert table["artifacts"][-1]["kind"] == "tflite"
    assert "not a kind that this edgekit knows" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("provenance"),
        lambda data: data["provenance"].pop("recipe"),
        lambda data: data.update(provenance=None),
        lambda data: data["model"].pop("model_type"),
        lambda data: data["model"].update(model_type=5),
    ],
)
def test_a_manifest_that_lacks_something_gives_one_line(
    change: Callable[[dict[str, Any]], object], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dict(manifest.read(bundle).data)
    data.pop("checksum", None)
    change(data)
    (bundle / "manifest.json").write_bytes(manifest.sign(data))
    assert main(["inspect", str(bundle)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("edgekit: ")
    assert err.count("\n") == 1
    assert "convert the checkpoint again" in err


def test_inspect_and_plan_show_the_bytes_of_keys_and_values(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, text = inspect(bundle, capsys)
    assert table["kv_bytes"] > 0
    assert "keys and values" in text
    profile = bundle.parent / "profile.json"
    made_up().save(profile)
    assert main(["plan", str(bundle), "--profile", str(profile)]) == 0
    assert "keys and values" in capsys.readouterr().out
    assert main(["plan", str(bundle), "--profile", str(profile), "--sweep", "3"]) == 0
    assert " KV " in capsys.readouterr().out


def test_a_checkpoint_shows_what_convert_would_warn_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(DEMO, tmp_path / "demo")
    config = json.loads((DEMO / "config.json").read_text())
    (tmp_path / "demo" / "config.json").write_text(json.dumps(config | {"an_unheard_of_key": 5}))
    (tmp_path / "demo" / "tokenizer.json").unlink()
    table, text = inspect(tmp_path / "demo", capsys)
    assert len(table["warnings"]) == 2
    assert "no tokenizer.json" in table["warnings"][0]
    assert "an_unheard_of_key" in table["warnings"][1]
    assert text.count("\nwarning ") == 2
    assert inspect(DEMO, capsys)[0]["warnings"] == []
