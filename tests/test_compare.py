"""`edgekit compare`: recipes side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from tests.conftest import DEMO

TEXT = "Once upon a time there was a cat who liked to run in the garden. " * 8


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, Any]]:
    main(["compare", str(DEMO), "--tokens", "100", "--json", *map(str, arguments)])
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
    return rows


def test_rows_have_what_convert_eval_and_run_measure(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kept"
    rows = compared(
        capsys, "--recipes", "q8,palette2", "--text", text, "--ram", "2500K", "-n", 4, "-r", 1, "-o", folder
    )
    assert [row["recipe"] for row in rows] == ["q8", "palette2"]
    fine, coarse = rows
    assert fine["kl"] < coarse["kl"]
    assert fine["bundle_bytes"] > coarse["bundle_bytes"]
    assert fine["top1"] > coarse["top1"]
    for row in rows:
        bundle = folder / f"{row['recipe']}.edgekit"
        assert (
            main(["eval", str(bundle), "--text", str(text), "--against", str(DEMO), "--tokens", "100", "--json"]) == 0
        )
        assert json.loads(capsys.readouterr().out)["kl"] == pytest.approx(row["kl"], rel=1e-9)
        assert main(["inspect", str(bundle), "--json"]) == 0
        about = json.loads(capsys.readouterr().out)
        assert (about["bytes"], about["bits_per_weight"]) == (row["bundle_bytes"], row["bits_per_weight"])
        assert row["tokens_per_second"] > 0
        assert row["budget_tokens_per_second"] > 0


def test_what_was_measured_is_taken_over_and_other_settings_are_not(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ("--recipes", "q8", "--text", text, "-n", 0, "-o", tmp_path)
    first = compared(capsys, *base)
    assert compared(capsys, *base) == first  # the seconds of the conversion too, so there was none
    again = compared(capsys, *base, "--calibration", text, "--calibration-tokens", 256)
    assert "exists already" in again[0]["error"]
    replaced = compared(capsys, *base, "--calibration", text, "--calibration-tokens", 256, "--overwrite")
    assert replaced[0]["error"] is None


def test_a_recipe_that_fails_has_its_reason_and_the_others_go_on(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "learns.toml").write_text('[[tensors]]\nmatch = "*"\nmethod = "affine"\nbits = 4\nsolver = "gptq"\n')
    status = main(
        ["compare", str(DEMO), "--recipes", f"{tmp_path / 'learns.toml'},q8", "--text", str(text), "--tokens", "100",
         "-n", "2", "-r", "1", "--ram", "20K"]
    )  # fmt: skip
    out = capsys.readouterr().out
    assert status == 1
    lines = out.splitlines()
    assert lines[2].startswith("| learns | - | - |")
    assert lines[3].startswith("| q8 | ")
    assert any(line.startswith("learns: ") and "--calibration" in line for line in lines[4:])
    assert any(line.startswith("q8: ") and "20" in line for line in lines[4:])  # the budget that it cannot keep


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--recipes", ""], "nothing to compare"),
        (["--recipes", "q4,q4"], "two recipes have the name 'q4'"),
        (["--recipes", "q17"], "q17"),
        (["--recipes", "q4", "--method", "affine"], "--method: of --target-bpw only"),
        (["--recipes", "q4", "--overwrite"], "name it with -o"),
        (["--recipes", "q4", "--ram", "much"], "much"),
        (["--recipes", "q4", "--text", "absent.txt"], "absent.txt"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(DEMO), "--text", str(text), *arguments]) == 1
    out, err = capsys.readouterr()
    assert line in err
    assert (out, err.strip().count("\n")) == ("", 0)


def test_the_plot_is_an_image(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["compare", str(DEMO), "--recipes", "q8", "--text", str(text), "--tokens", "100", "-n", "2", "-r", "1"]
    assert main([*arguments, "--plot", str(tmp_path / "plot.svg")]) == 0
    assert "tok/s in memory" in (tmp_path / "plot.svg").read_text()
