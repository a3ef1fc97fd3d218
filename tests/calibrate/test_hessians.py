"""Hessians of matrices' inputs, against inputs that NumPy computes, and what solvers make of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.arch.checkpoints import describe_checkpoint
from edgekit.bundle.layout import plan_layout
from edgekit.calibrate.calibration import Calibration
from edgekit.calibrate.hessians import Hessians
from edgekit.checkpoint import open_checkpoint
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.recipe import Recipe, load_recipe
from edgekit.reference import Reference
from edgekit.runtime.values import Options
from tests import tiny
from tests.conftest import DEMO

RUNS = [np.random.default_rng(i).integers(3, 199, 24).tolist() for i in range(4)]
TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps. " * 3


def _hessians(folder: Path, name: str, memory: int = 1 << 30) -> tuple[Hessians, Path]:
    tiny.make(name, folder / "checkpoint")
    model, _ = describe_checkpoint(open_checkpoint(folder / "checkpoint"))
    wanted = load_recipe(_recipe(folder, "gptq"))
    plain = convert(folder / "checkpoint", folder / "plain", "f32").path
    made = Hessians(
        plain, plan_layout(model, wanted), RUNS, Options(cache_type="f32"), lambda name: np.arange(0), memory
    )
    return made, plain


def _recipe(folder: Path, solver: str, bits: int = 4) -> Path:
    path = folder / f"{solver}{bits}.toml"
    path.write_text(f'[[tensors]]\nmatch = "*"\nmethod = "scaled_palette"\nbits = {bits}\nsolver = "{solver}"\n')
    return path


def test_hessians_are_those_of_the_inputs(tmp_path: Path) -> None:
    hessians, plain = _hessians(tmp_path, "llama")
    reference = Reference(plain)
    block = reference.model["blocks"][1]
    sums = {"q": np.zeros((64, 64)), "down": np.zeros((block["size"],) * 2)}
    count = 0
    for ids in RUNS:
        x = reference._matrix("embedding")[0][ids] * reference.model["embedding"]["scale"]
        first = reference.model["blocks"][0]
        source = reference._norm(first["pre_norm"], x)
        sums["q"] += source.T @ source
        x = x + reference._attention(first, source, len(ids), {}, 0, np.zeros((len(ids), len(ids)), bool))
        y = reference._norm(block["pre_norm"], x)
        gate, up, _ = reference._matrix(block["matrices"][0])
        g = y @ gate.T
        h = g / (1 + np.exp(-g)) * (y @ up.T)
        sums["down"] += h.T @ h
        count += len(ids)
    parts = {p.name: p for m in hessians.layout.matrices for p in m.parts}
    down = next(p for p in parts.values() if p.by_column)
    for name, want in ((first["q"], sums["q"]), (first["v"], sums["q"]), (down.name, sums["down"])):
        got = hessians.of(parts[name])
        assert got.hessian is not None
        assert got.inputs_are_rows == (name == down.name)
        assert np.allclose(got.hessian, want / count, atol=1e-4 * np.abs(want / count).max())


@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2"])
def test_little_memory_changes_nothing_but_the_times_the_text_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    wide, _ = _hessians(tmp_path / "a", name)
    tight, _ = _hessians(tmp_path / "b", name, memory=1)
    reads: list[int] = []
    tight.note = lambda what, done, total: reads.append(done)
    for matrix in wide.layout.matrices:
        for part in matrix.parts:
            one, other = wide.of(part).hessian, tight.of(part).hessian
            assert (one is None) == (other is None)
            assert one is None or np.array_equal(one, other)
    assert len(tight.held) == 1
    assert len(reads) > len(RUNS) * 3


@pytest.mark.parametrize("solver", ["search", "gptq"])
def test_conversion_with_text_is_closer_to_the_original(
    solver: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Once upon a time there was a {w}. " * 6 for w in ("cat", "dog", "king", "tree")))
    settings = Calibration((text,), tokens=1024, order=False)
    recipe = _recipe(tmp_path, solver, 3)
    made = convert(DEMO, tmp_path / "made", recipe, calibration=settings if solver == "gptq" else None)
    assert main(["eval", str(made.path), "--text", str(text), "--against", str(DEMO), "--json"]) == 0
    kl = json.loads(capsys.readouterr().out)["kl"]
    assert kl < (0.08 if solver == "gptq" else 0.2)


def test_text_turns_on_error_feedback_where_no_solver_is_said() -> None:
    for name, before, after in (("palette4", None, "gptq"), ("q8", None, None), ("f16", None, None)):
        recipe = load_recipe(name)
        assert recipe.rule_for("layers.0.q").solver == before
        assert recipe.with_text().rule_for("layers.0.q").solver == after
    assert isinstance(load_recipe("q4").with_text(), Recipe)


def test_a_solver_that_learns_from_text_demands_some(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="add --calibration TEXT"):
        convert(DEMO, tmp_path / "made", _recipe(tmp_path, "gptq"))
    assert not list(tmp_path.glob("made*"))


def test_neurons_in_another_order_keep_their_statistics(tmp_path: Path) -> None:
    """With an order of neurons the same codes come out, in that order, up to ties."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 30)
    recipe = _recipe(tmp_path, "gptq")
    losses = []
    for order in (False, True):
        made = convert(DEMO, tmp_path / f"order{order}", recipe, calibration=Calibration((text,), 512, order=order))
        reference = Reference(made.path)
        original = Reference(convert(DEMO, tmp_path / f"plain{order}", "f32").path)
        ids = list(range(5, 60))
        losses.append(float(np.square(reference.logits(ids) - original.logits(ids)).mean()))
    assert losses[1] < 1.5 * losses[0]
