"""finetune: parts that are trained are what the bundle holds, training helps and resumes, bad input is one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.bundle.weights import BundleWeights
from edgekit.cli.main import main
from edgekit.codecs import Codec, make_codec
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.solvers import encode
from edgekit.train import finetune as training
from edgekit.train.finetune import Tuning, finetune
from edgekit.train.parts import trained_part
from edgekit.train.state import STATE
from tests.conftest import DEMO

QUICK = Tuning(steps=12, batch=2, length=48, evaluate=4, save_every=5)
CODECS = [make_codec("trellis", 2), make_codec("trellis", 3), make_codec("scaled_palette", 2, group_size=32)]


def weights(rows: int = 24, cols: int = 72) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((rows, cols)).astype(np.float32) * 0.1


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    words = ("cat", "dog", "king", "tree", "fish", "moon", "boat", "bird", "lamp", "door", "hill", "cake")
    path.write_text("\n\n".join(f"Once upon a time there was a {w}. The {w} was happy. " * 3 for w in words))
    return path


@pytest.fixture
def source(data: Path) -> Path:
    return data / "models" / "stories260K"


def small(source: Path, folder: Path, method: str = "trellis", bits: int = 2) -> Path:
    recipe = folder / "recipe.toml"
    recipe.write_text(f'[[tensors]]\nmatch = "*"\nmethod = "{method}"\nbits = {bits}\n')
    return convert(source, folder / "small", recipe).path


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: f"{c.name}{c.bits}")
@pytest.mark.parametrize("codes_too", [False, True])
def test_weights_in_training_are_those_of_the_arrays(codec: Codec, codes_too: bool) -> None:
    part = trained_part(codec, encode(codec, weights()).arrays, 72, codes_too)
    assert part is not None
    target = torch.tensor(weights() + 0.5 * weights()[::-1])
    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.1 * size} for p, size in part.parameters.values()])
    errors = []
    for round_number in range(12):
        loss = (part.weight() - target).square().mean()
        errors.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        part.search(round_number)
    arrays = part.arrays()
    stored = codec.decode(codec.pack(arrays, 72), 72, arrays.get("lut"))
    np.testing.assert_allclose(stored, part.weight().detach().numpy(), atol=1e-6)
    assert errors[-1] < errors[0] * (0.95 if codes_too else 1.001)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: f"{c.name}{c.bits}")
def test_codes_stay_where_only_scales_are_trained(codec: Codec) -> None:
    before = encode(codec, weights()).arrays
    part = trained_part(codec, before, 72, codes_too=False)
    assert part is not None
    with torch.no_grad():
        part.parameters["scale"][0].add_(2)
    part.search(1)
    np.testing.assert_array_equal(part.arrays()["codes"][:, :72], before["codes"][:, :72])
    np.testing.assert_array_equal(part.arrays()["scale"], before["scale"] + 2)


def test_codecs_without_scales_of_rows_or_groups_stay_as_they_are() -> None:
    for codec in (make_codec("affine", 8), make_codec("f16"), make_codec("palette", 4)):
        assert trained_part(codec, encode(codec, weights()).arrays, 72, codes_too=True) is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["trellis", "scaled_palette"])
def test_training_brings_a_bundle_closer_to_its_original(
    method: str, source: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = small(source, tmp_path, method)
    text = data / "text" / "tinystories_train.jsonl"
    held_out = tmp_path / "held-out.jsonl"
    lines = (data / "text" / "tinystories_valid.jsonl").read_text().splitlines(keepends=True)
    held_out.write_text("".join(lines[:4]))
    tuning = Tuning(steps=40, batch=4, length=96, evaluate=4)
    done = finetune(source, given, tmp_path / "better", [text], tuning, held_out=[held_out])
    assert done.after < 0.8 * done.before
    assert done.path.name == "better.edgekit"
    before, after = (sum(f.stat().st_size for f in p.glob("*.bin")) for p in (given, done.path))
    assert before == after
    assert main(["verify", str(done.path)]) == 0
    capsys.readouterr()
    assert main(["eval", str(done.path), "--text", str(held_out), "-c", "96", "--against", str(source), "--json"]) == 0
    kl = json.loads(capsys.readouterr().out)["kl"]
    assert kl == pytest.approx(done.after, rel=0.05)
    assert "finetuned" in BundleWeights(done.path).data["provenance"]


def test_an_interrupted_training_goes_on_and_ends_alike(source: Path, story: Path, tmp_path: Path) -> None:
    given = small(source, tmp_path)
    whole = finetune(source, given, tmp_path / "whole", [story], QUICK)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 11:
            raise Stop

    with pytest.raises(Stop):
        finetune(source, given, tmp_path / "parts", [story], QUICK, progress=stop)
    assert not (tmp_path / "parts.edgekit").exists()
    parts = finetune(source, given, tmp_path / "parts", [story], QUICK)
    assert (whole.resumed, parts.resumed) == (0, 10)
    for name in ("resident.bin", "flash.bin"):
        assert (parts.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_a_damaged_state_is_one_line_with_a_cure(source: Path, story: Path, tmp_path: Path) -> None:
    given = small(source, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        finetune(source, given, tmp_path / "out", [story], QUICK, progress=_interrupt_at(6))
    state = tmp_path / "out.edgekit.partial" / "training" / STATE
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ConvertError, match="the saved training is damaged; remove"):
        finetune(source, given, tmp_path / "out", [story], QUICK)


def _interrupt_at(step: int):  # type: ignore[no-untyped-def]
    def interrupt(done: int, total: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return interrupt


def test_what_cannot_be_trained_is_refused(
    source: Path, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = convert(source, tmp_path / "plain", "f16").path
    with pytest.raises(ConvertError, match="no matrix in trellis or scaled_palette"):
        finetune(source, plain, tmp_path / "out", [story], QUICK)
    given = small(source, tmp_path, "scaled_palette", 4)
    with pytest.raises(ConvertError, match="is not the original of the bundle"):
        finetune(DEMO, given, tmp_path / "out", [story], QUICK)
    short = tmp_path / "short.txt"
    short.write_text("Once.")
    with pytest.raises(ConvertError, match="give more text"):
        finetune(source, given, tmp_path / "out", [short], QUICK)
    with pytest.raises(ConvertError, match="lie in each other"):
        finetune(source, given, given, [story], QUICK, overwrite=True)
    monkeypatch.setattr(training, "available_memory", lambda: 1 << 20)
    with pytest.raises(ConvertError, match=r"needs about .* MiB of memory"):
        finetune(source, given, tmp_path / "out", [story], replace(QUICK, steps=1))
    assert not (tmp_path / "out.edgekit").exists()
