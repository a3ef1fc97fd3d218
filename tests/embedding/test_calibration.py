"""Solvers that learn from text work for encoders too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.calibrate.calibration import Calibration
from edgekit.calibrate.target import Target
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.session import Session
from tests import encoders

RNG = np.random.default_rng(2)


def test_error_feedback_helps_an_encoder(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    encoders.add_tokenizer(tmp_path / "checkpoint")
    words = [*encoders.WORDS[5:], *(f"w{i}" for i in range(60))]
    lines = [" ".join(RNG.choice(words, 40)) for _ in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    texts = [TokenText(tuple(RNG.integers(5, 99, 30).tolist())) for _ in range(8)]
    learned = Calibration(text=(tmp_path / "text.jsonl",), tokens=2000)
    made = {
        "f32": convert(tmp_path / "checkpoint", tmp_path / "f32", "f32").path,
        "plain": convert(tmp_path / "checkpoint", tmp_path / "plain", "q4").path,
        "gptq": convert(tmp_path / "checkpoint", tmp_path / "gptq", "q4", calibration=learned).path,
    }
    states = {}
    for name, path in made.items():
        with Session(path) as session:
            states[name] = np.concatenate(session.embed(texts, states=True).states)
    plain, better = (np.square(states[n] - states["f32"]).mean() for n in ("plain", "gptq"))
    assert better < 0.9 * plain


def test_a_target_size_is_refused_with_what_to_do(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    with pytest.raises(ConvertError, match="give a recipe"):
        convert(tmp_path / "checkpoint", tmp_path / "bundle", target=Target(100_000))
