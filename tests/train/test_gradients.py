"""Hessians of both sides, against the divergence that small errors cause, and what a conversion makes of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.layout import plan_layout
from edgekit.calibrate.calibration import Calibration
from edgekit.calibrate.curvature import Curvature, part_file, read_curvature
from edgekit.calibrate.sensitivity import Reader, coded, tensors
from edgekit.checkpoint import open_checkpoint
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.recipe import load_recipe
from edgekit.runtime.values import Options
from edgekit.train import gradients
from edgekit.train.batches import batched
from edgekit.train.decoder import Decoder
from edgekit.train.weights import BundleTensors
from tests import tiny
from tests.conftest import DEMO

RUNS = [np.random.default_rng(i).integers(3, 199, 20 + i % 7).tolist() for i in range(24)]
SINGLE = [[token] for token in range(3, 199)] * 2  # below are padding and marks, whose embedding may be zero
FAMILIES = ["llama", "llama_tied_biased", "gpt_neox", "lfm2", "gemma3", "gpt2"]


class Changed:
    """Weights of a bundle, one part of a matrix with something added."""

    def __init__(self, weights: BundleTensors, name: str, part: int, error: Tensor) -> None:
        self.weights, self.place, self.error = weights, (name, part), error

    def matrix(self, name: str) -> list[Tensor]:
        parts = list(self.weights.matrix(name))
        if name == self.place[0]:
            parts[self.place[1]] = parts[self.place[1]] + self.error
        return parts

    def vector(self, name: str) -> Tensor:
        return self.weights.vector(name)


@torch.no_grad()
def divergence(weights: BundleTensors, changed: Changed, runs: list[list[int]]) -> float:
    """Mean KL divergence over all tokens."""
    nats = 0.0
    for batch in batched(runs, 1 << 20):
        want, got = (Decoder(weights.model, w).logits(batch.ids).log_softmax(-1) for w in (weights, changed))
        nats += float((want.exp() * (want - got)).sum(dim=-1)[batch.mask].double().sum())
    return nats / sum(len(r) for r in runs)


def measured(folder: Path, name: str, runs: list[list[int]] = RUNS) -> tuple[Path, Curvature]:
    tiny.make(name, folder / "checkpoint")
    plain = convert(folder / "checkpoint", folder / "plain", "f32").path
    return plain, read_curvature(plain, runs, folder / "curvature", lambda name: np.arange(0), lambda *_: None)


@pytest.mark.parametrize(
    ("name", "runs", "each", "all_parts"),
    [
        *((name, SINGLE, 1.6, 1.2) for name in FAMILIES),
        *((name, RUNS, 6, 2) for name in ("llama_tied_biased", "gpt_neox")),
    ],
)
def test_small_errors_cost_what_is_predicted(
    name: str, runs: list[list[int]], each: float, all_parts: float, tmp_path: Path
) -> None:
    """Of errors in all directions alike, half of tr(G E H E') is the divergence, but for what tokens have to do with
    each other, which is left out: texts of one token have no such thing."""
    plain, curvature = measured(tmp_path, name, runs)
    weights = BundleTensors(plain)
    model, _ = describe_checkpoint(open_checkpoint(tmp_path / "checkpoint"))
    predicted, found = 0.0, 0.0
    for matrix in plan_layout(model, load_recipe("f32")).matrices:
        for i, part in enumerate(matrix.parts):
            statistics = curvature.of(part)
            if statistics.hessian is None:
                continue
            assert statistics.outputs is not None
            rng = torch.Generator().manual_seed(len(part.name))
            scale = float(weights.matrix(matrix.name)[i].std()) * 0.02
            error = torch.randn(part.rows, part.cols, generator=rng) * scale
            e = (error.T if part.by_column else error).numpy()
            expected = float(np.trace(statistics.outputs @ e @ statistics.hessian @ e.T)) / 2
            if expected < 1e-12:  # a query at the first token looks at nothing else
                continue
            real = divergence(weights, Changed(weights, matrix.name, i, error), runs)
            assert real / each < expected < each * real, part.name
            predicted, found = predicted + expected, found + real
    assert found / all_parts < predicted < all_parts * found


def test_an_allocation_expects_what_codecs_really_cost(tmp_path: Path) -> None:
    plain, curvature = measured(tmp_path, "llama", SINGLE)
    weights, opened = BundleTensors(plain), open_checkpoint(tmp_path / "checkpoint")
    layout = plan_layout(describe_checkpoint(opened)[0], load_recipe("f16"))
    found = tensors(opened, layout, "affine", Reader(plain, RUNS, Options(), curvature.of, 4), lambda *_: None)
    choices = {t.name: next(c for c in t.choices if c.codec.bits == 4) for t in found}
    predicted, real = 0.0, 0.0
    for matrix in layout.matrices:
        for i, part in enumerate(matrix.parts):
            if curvature.of(part).hessian is None or part.name.endswith((".q", ".k")):
                continue  # they see one token and have no say
            rows, statistics = weights.matrix(matrix.name)[i].numpy(), curvature.of(part)
            error = torch.tensor(coded(choices[part.name].codec, rows, statistics) - rows)
            predicted += choices[part.name].loss
            real += divergence(weights, Changed(weights, matrix.name, i, error), SINGLE)
    assert real / 1.5 < predicted < 1.5 * real


def test_experts_have_statistics_of_their_own(tmp_path: Path) -> None:
    _, curvature = measured(tmp_path, "mixtral")
    model, _ = describe_checkpoint(open_checkpoint(tmp_path / "checkpoint"))
    parts = [p for m in plan_layout(model, load_recipe("f32")).matrices for p in m.parts if ".ffn." in p.name]
    assert len(parts) > 12
    for part in parts:
        statistics = curvature.of(part)
        assert statistics.hessian is not None
        assert statistics.outputs is not None
        assert np.isfinite(statistics.hessian).all()
        assert np.trace(statistics.outputs) == pytest.approx(1, rel=1e-3)


def test_matrices_that_no_token_reaches_have_no_statistics(tmp_path: Path) -> None:
    _, curvature = measured(tmp_path, "llama")
    model, _ = describe_checkpoint(open_checkpoint(tmp_path / "checkpoint"))
    part = plan_layout(model, load_recipe("f32")).matrices[1].parts[0]
    part_file(curvature.folder, part.name).unlink()
    assert curvature.of(part).hessian is None


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    plain, _ = measured(tmp_path, "llama")
    notes: list[str] = []
    read_curvature(plain, RUNS, tmp_path / "curvature", lambda name: np.arange(0), lambda what, *_: notes.append(what))
    assert notes == []


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "available_memory", lambda: 1 << 16)
    with pytest.raises(ConvertError, match=r"needs about .* MiB of memory"):
        measured(tmp_path, "llama")
    assert not (tmp_path / "curvature").exists()


def test_gradients_need_torch_and_text_and_a_solver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a cat. " * 40)
    given = ["convert", str(DEMO), "-o", str(tmp_path / "out"), "--calibration", str(text), "--gradients"]
    script = "import sys; sys.modules['torch'] = None; from edgekit.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", script, *given], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == "edgekit: --gradients needs torch: pip install 'edgekit[train]'"
    assert main(["convert", str(DEMO), "-o", str(tmp_path / "out"), "--gradients"]) != 0
    assert "--gradients: learned from text" in capsys.readouterr().err
    assert main([*given, "--recipe", "f16"]) != 0
    assert "no solver of recipe 'f16' learns from them" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_a_conversion_with_gradients_is_closer(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = data / "models" / "stories260K"
    text, held_out = data / "text" / "tinystories_train.jsonl", tmp_path / "held-out.jsonl"
    lines = (data / "text" / "tinystories_valid.jsonl").read_text().splitlines(keepends=True)
    held_out.write_text("".join(lines[:10]))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[tensors]]\nmatch = "*"\nmethod = "trellis"\nbits = 3\n')
    kl = []
    for gradients_too in (False, True):
        settings = Calibration((text,), tokens=4096, gradients=gradients_too)
        made = convert(source, tmp_path / f"made{gradients_too}", recipe, calibration=settings)
        assert main(["eval", str(made.path), "--text", str(held_out), "--against", str(source), "--json"]) == 0
        kl.append(json.loads(capsys.readouterr().out)["kl"])
    assert kl[1] < 0.9 * kl[0]
