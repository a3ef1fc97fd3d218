"""`edgekit eval` and the comparison behind it, against figures computed here from the models' logits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.evaluate.comparison import compare
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests.conftest import DEMO

RUNS = [np.random.default_rng(i).integers(3, 2000, n).tolist() for i, n in enumerate((70, 5, 200))]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("eval")
    return convert(DEMO, folder / "a", "palette3").path, convert(DEMO, folder / "b", "f32").path


def test_figures_are_those_of_the_logits(bundles: tuple[Path, Path]) -> None:
    with Session(bundles[0], Options()) as model, Session(bundles[1], Options()) as other:
        found = compare(model, other, RUNS, 275, lambda ids: 2 * len(ids), lambda done, total: None)
        kl, nats = [], []
        for ids in RUNS:
            model.reset()
            other.reset()
            p, q = (s.logits(ids)[:-1].astype(np.float64) for s in (other, model))
            p, q = (x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)
                    for x in (p, q))  # fmt: skip
            kl.append((np.exp(p) * (p - q)).sum(1))
            nats.append(-q[np.arange(len(ids) - 1), ids[1:]])
    all_kl, all_nats = np.concatenate(kl), np.concatenate(nats)
    assert found.tokens == 275 - 3
    assert found.kl is not None
    assert found.kl == pytest.approx(all_kl.mean(), rel=1e-3)
    assert found.kl_max == pytest.approx(all_kl.max(), rel=1e-3)
    assert found.perplexity == pytest.approx(math.exp(all_nats.mean()), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(all_nats.mean() / math.log(2) / 2, rel=1e-4)
    assert found.kl_99 is not None
    assert found.kl < found.kl_99 < found.kl_max
    assert found.top1 is not None
    assert 0.3 < found.top1 < 1


def test_a_model_is_nothing_from_itself(bundles: tuple[Path, Path]) -> None:
    with Session(bundles[0], Options()) as model, Session(bundles[0], Options()) as other:
        found = compare(model, other, RUNS, 275, len, lambda done, total: None)
    assert (found.kl, found.kl_max, found.top1, found.top5) == (0, 0, 1, 1)
    assert found.perplexity == found.against_perplexity


def test_command_reads_text_under_a_budget_and_compares_with_a_checkpoint(
    bundles: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little dog. " * 20)
    arguments = ["eval", str(bundles[0]), "--text", str(text), "--ram", "4M", "--tokens", "150", "--json"]
    assert main([*arguments, "--against", str(DEMO)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kl"] > 0
    assert found["against_perplexity"] < found["perplexity"] * 1.5
    assert main(arguments) == 0
    alone = json.loads(capsys.readouterr().out)
    assert alone["kl"] is None
    assert alone["perplexity"] == found["perplexity"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--text", "missing.txt"], "cannot read"),
        (["--text", "empty.txt"], "fewer than 64 tokens"),
        (["--text", "text.txt", "--against", "missing"], "neither a bundle nor a checkpoint"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], line: str, bundles: tuple[Path, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("")
    Path("text.txt").write_text("A cat sat on a mat. " * 50)
    assert main(["eval", str(bundles[0]), *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert line in error
    assert "\n" not in error
