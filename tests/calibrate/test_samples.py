"""--self-calibration: without text the model writes some, which helps, is the same each time, and is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.weights import BundleWeights
from edgekit.calibrate import samples
from edgekit.calibrate.calibration import Calibration
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import encoders

OWN = Calibration((), tokens=1024, length=128, samples=True)
RECIPE = '[[tensors]]\nmatch = "*"\nmethod = "scaled_palette"\nbits = 3\ngroup_size = 64\n'


@pytest.fixture
def source(data: Path) -> Path:
    return data / "models" / "stories260K"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def distributions(bundle: Path, texts: list[str]) -> np.ndarray:
    tokenizer = Tokenizer(bundle / "tokenizer")
    out = []
    with Session(bundle, Options(context=256)) as session:
        for text in texts:
            session.reset()
            out.append(log_softmax(session.logits(tokenizer.encode(text)[:256])))
    return np.concatenate(out)


def test_own_text_brings_a_bundle_closer_to_its_original(
    source: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    original = convert(source, tmp_path / "original", "f32").path
    without = convert(source, tmp_path / "without", recipe).path
    own = convert(source, tmp_path / "own", recipe, calibration=OWN).path
    lines = (data / "text" / "tinystories_valid.jsonl").read_text().splitlines()[:4]
    texts = [json.loads(line)["text"] for line in lines]
    want = distributions(original, texts)

    def divergence(bundle: Path) -> float:
        return float((np.exp(want) * (want - distributions(bundle, texts))).sum(axis=-1).mean())

    assert divergence(own) < 0.8 * divergence(without)  # measured with 40,000 tokens: 0.61
    assert BundleWeights(own).data["provenance"]["calibration"]["text"] == ["written by the model"]


def test_an_interrupted_conversion_keeps_the_text(source: Path, recipe: Path, tmp_path: Path) -> None:
    how = replace(OWN, tokens=256)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "own", recipe, calibration=how, progress=stop)
    written = list((tmp_path / "own.edgekit.partial" / "samples").iterdir())
    assert [p.suffix for p in written] == [".jsonl"]
    assert all(json.loads(line)["text"] for line in written[0].read_text().splitlines())
    seen: list[str] = []
    made = convert(source, tmp_path / "own", recipe, calibration=how, note=lambda what, d, t: seen.append(what)).path
    assert "writing a text to learn from" not in seen
    whole = convert(source, tmp_path / "whole", recipe, calibration=how).path
    for name in ("resident.bin", "flash.bin"):
        assert (made / name).read_bytes() == (whole / name).read_bytes()


def test_a_model_that_only_ends_its_texts_is_refused(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "SHORTEST", 1 << 10)  # no text is as long
    monkeypatch.setattr(samples, "MOST", 2)
    with pytest.raises(ConvertError, match="ends its texts after a few tokens"):
        convert(source, tmp_path / "own", recipe, calibration=replace(OWN, length=16))
    assert not (tmp_path / "own.edgekit").exists()


def test_a_model_that_writes_no_text_is_refused(recipe: Path, tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    encoders.add_tokenizer(tmp_path / "checkpoint")
    with pytest.raises(ConvertError, match="writes no text to learn from; give some with --calibration"):
        convert(tmp_path / "checkpoint", tmp_path / "own", recipe, calibration=OWN)


def test_text_of_both_kinds_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--calibration", "text.txt", "--self-calibration"]
    assert main(["convert", str(source), "-o", str(tmp_path / "out"), *given]) != 0
    assert "not both" in capsys.readouterr().err
