"""Flags that do not apply are refused by name, in one line and before any work; none is taken and then ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.converters.kinds import KINDS
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a call that is refused."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1, arguments
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("edgekit: ")
    assert out.err.count("\n") == 1, out.err
    return out.err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--revision", "main"),
        ("--threads", "2"),
        ("--layout", "auto"),
        ("--unit-size", "16K"),
        ("--calibration", "text.txt"),
        ("--self-calibration", None),
        ("--calibration-tokens", "8192"),
        ("--predictor", None),
        ("--keep-order", None),
        ("--false-negatives", "0.05"),
        ("--to", "native"),
        ("--ctx-size", "100"),
    ],
)
def test_graphs_take_no_flags_of_language_models(
    flag: str, value: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [flag] if value is None else [flag, value]  # also where the value is the default
    error = error_of(capsys, "convert", tmp_path / "none.onnx", "-o", tmp_path / "out.onnx", *given)
    assert f"{flag}: " in error
    assert "ONNX graph" in error


def test_all_flags_that_do_not_apply_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("-t", 1, "-c", 64, "--predictor", "--bits", 8, "--overwrite", "-q")
    error = error_of(capsys, "convert", tmp_path / "none.onnx", "-o", tmp_path / "out.onnx", *given)
    for flag in ("--threads", "--ctx-size", "--predictor"):
        assert flag in error
    for flag in ("--bits", "--overwrite", "--quiet"):
        assert flag not in error


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (("--predictor",), "--calibration FILE"),
        (("--keep-order",), "--calibration FILE"),
        (("--calibration-tokens", "512"), "--calibration FILE"),
        (("--false-negatives", "0.1"), "--calibration FILE"),
        (("--false-negatives", "0.1", "--calibration", "text.txt"), "--predictor"),
        (("--ctx-size", "64"), "--to"),
        (("--ctx-size", "64", "--to", "native,mlx"), "not an option of mlx"),
    ],
)
def test_flags_that_need_another_one_say_so(
    given: tuple[str, ...], cure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, "convert", DEMO, "-o", tmp_path / "out", *given)
    assert given[0] in error
    assert cure in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("context", ("--ctx-size", "64")),
        ("bits", ("--bits", "8")),
        ("accuracy_level", ("--accuracy-level", "0")),
        ("precision", ("--precision", "f16")),
        ("chunk", ("--chunk", "64")),
    ],
)
def test_exports_take_only_the_options_of_their_formats(
    kind: str, option: str, given: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, "export", tmp_path, "--to", kind, *given)
    if option in KINDS[kind].options:
        assert "not a bundle" in error
    else:
        assert f"{given[0]}: not an option of {kind}; it is of " in error
    takes = next(k for k in KINDS if option in KINDS[k].options)
    assert "not a bundle" in error_of(capsys, "export", tmp_path, "--to", f"{takes},{kind}", *given)
