"""The commands of selection and planning, as a person calls them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgekit.cli.main import cli, main
from edgekit.conversion import convert
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("cli") / "demo", "q4", layout="split").path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_run_exact_prints_the_dense_text_and_writes_counters(bundle: Path, tmp_path: Path) -> None:
    texts = {}
    for select in ("all", "exact"):
        stats = tmp_path / f"{select}.json"
        floor = plan_bundle(bundle, Options(context=40, select=select, batch=4)).floor_bytes
        done = call(
            "run", bundle, "-p", "Once upon a time", "-n", 20, "--temp", 0, "-c", 40, "-b", 4,
            "--ram", floor + 1_700_000, "--select", select, "--stats", stats, "--json",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        report, log = json.loads(done.output), json.loads(stats.read_text())
        texts[select] = report["text"]
        assert report["select"] == select
        assert len(log["tokens"]) == len(report["token_ids"]) == 20
        assert sum(t["generation_bytes_read"] for t in log["tokens"]) > 0
        assert [t["token"] for t in log["tokens"]] == report["token_ids"]
    assert texts["all"] == texts["exact"]
    assert report["selected_share"] < 0.3
    assert 0 < report["window_hit_rate"] < 1


def test_selection_that_a_bundle_cannot_do_says_what_to_do(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for select, cure in (("predicted", "--predictor"), ("threshold", "--calibration"), ("router", "no experts")):
        assert main(["run", str(bundle), "-p", "x", "--select", select]) == 1
        assert cure in capsys.readouterr().err
    assert main(["convert", str(DEMO), "-o", str(bundle.parent / "x"), "--predictor"]) == 1
    assert "--calibration" in capsys.readouterr().err


def test_bench_reports_in_every_form(bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl named Lily. She loved to play outside. " * 8)
    common = ("-p", 8, "-n", 12, "-r", 1, "--text", text, "--text-tokens", 80)
    done = call("bench", bundle, "--select", "all", "--select", "exact", "-o", "json", *common)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)["rows"]
    assert [r["select"] for r in rows] == ["all", "exact"]
    assert all(abs(r["kl"]) < 1e-4 and r["top1"] == 1 for r in rows)
    done = call("bench", bundle, "-o", "csv", *common)
    assert float(next(csv.DictReader(io.StringIO(done.output)))["tokens_per_second"]) > 0
    done = call("bench", bundle, *common)
    assert done.output.count("\n") == 3
    assert done.output.startswith("| selection |")


def test_unit_size_is_obeyed_and_changes_no_result(tmp_path: Path) -> None:
    from edgekit.bundle import manifest

    outputs = []
    for size in ("4K", "64K"):
        made = convert(DEMO, tmp_path / size, "f16", unit_size=int(size[:-1]) << 10).path
        strides = {m["unit_stride"] for m in manifest.read(made).data["matrices"] if m["file"] == "flash.bin"}
        assert max(strides) <= int(size[:-1]) << 10
        done = call("run", made, "-p", "Once", "-n", 12, "--temp", 0, "--json")
        outputs.append(json.loads(done.output)["text"])
    assert outputs[0] == outputs[1]
