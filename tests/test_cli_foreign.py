"""Flags of llama.cpp and mlx-lm: those that work here, and the answers to those that do not."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from edgekit.cli.foreign import ANSWERS
from edgekit.cli.main import cli, main
from edgekit.conversion import convert
from tests.conftest import ROOT

RUN = {
    "-ngl": "--ram",
    "--n-gpu-layers": "--ram",
    "--gpu-layers": "--ram",
    "--mlock": "--ram",
    "--no-mmap": "--io",
    "-fa": "attention",
    "--flash-attn": "attention",
    "-cnv": "--chat",
    "--conversation": "--chat",
    "-i": "--chat",
    "--max-kv-size": "--ctx-size",
    "--cache-type-k": "--cache-type",
    "-ctk": "--cache-type",
    "-ctv": "--cache-type",
    "--kv-bits": "--cache-type",
    "-ub": "--batch-size",
    "--ubatch-size": "--batch-size",
    "-tb": "--threads",
    "-sys": "--system",
    "--system-prompt": "--system",
    "-hf": "edgekit convert",
    "--prompt-cache-file": "--prompt-cache",
    "--adapter-path": "--lora",
    "--lora-scaled": "--lora",
}
CONVERT = {
    "--hf-path": "CHECKPOINT",
    "--mlx-path": "--output",
    "--outfile": "--output",
    "--outtype": "--recipe",
    "--quantize": "--recipe",
    "--q-mode": "--method",
    "--dtype": "--recipe",
    "--upload-repo": "uploads",
}
OTHERS = [("bench", "-m", "BUNDLE"), ("bench", "-ngl", "--ram"), ("plan", "--model", "BUNDLE")]
CASES = [*(("run", f, a) for f, a in RUN.items()), *(("convert", f, a) for f, a in CONVERT.items()), *OTHERS]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = ROOT / "examples" / "demo_model" / "checkpoint"
    return convert(demo, tmp_path_factory.mktemp("foreign") / "demo", "q4").path


@pytest.mark.parametrize(("command", "flag", "answer"), CASES)
@pytest.mark.parametrize("value", [(), ("99",), ("x", "-t", "1")], ids=["alone", "value", "more"])
def test_a_flag_of_another_tool_is_answered_by_name(
    command: str, flag: str, answer: str, value: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "model", flag, *value]) == 2
    err = capsys.readouterr().err
    assert f"Error: {flag} is not an option here" in err
    assert answer in err
    assert main([command, flag, *value]) == 2
    assert f"Error: {flag} is not an option here" in capsys.readouterr().err


def test_a_long_flag_with_its_value_attached_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model", "--n-gpu-layers=99", "-p", "x"]) == 2
    assert "--ram" in capsys.readouterr().err


@pytest.mark.parametrize("command", list(ANSWERS))
def test_answers_name_options_that_exist_and_hide_from_help(command: str) -> None:
    found = cli.get_command(click.Context(cli), command)
    assert found is not None
    again = cli.get_command(click.Context(cli), command)
    assert again is found
    options = [o for p in found.params if isinstance(p, click.Option) for o in p.opts]
    assert len(options) == len(set(options))
    shown = {o for p in found.params if isinstance(p, click.Option) and not p.hidden for o in p.opts}
    for flags, answer in ANSWERS[command]:
        assert not shown & set(flags.split("/"))
        for word in answer.replace(",", " ").replace(".", " ").replace(";", " ").split():
            if word.startswith("--"):
                assert word in shown, (flags, word)
    assert "--mlock" not in found.get_help(click.Context(found, info_name=command))


def test_the_bundle_may_be_given_with_m(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for arguments in ([str(bundle)], ["-m", str(bundle)], ["--model", str(bundle)]):
        assert main(["run", *arguments, "-p", "Once", "-n", "5", "--temp", "0", "-q"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0]
    assert texts[0] == texts[1] == texts[2]


def test_the_bundle_is_given_once(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "-m", str(bundle), "-p", "x"]) == 2
    assert "once" in capsys.readouterr().err
    assert main(["run", "-p", "x"]) == 2
    assert "-m" in capsys.readouterr().err
