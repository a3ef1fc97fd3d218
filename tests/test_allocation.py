"""Bits for each tensor: against all possible choices, and on the demo model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.codecs import make_codec
from edgekit.errors import RecipeError
from edgekit.inspect import inspect_bundle
from edgekit.plan import device
from edgekit.plan.device import KERNELS, Profile, Reads, kernel_name
from edgekit.plan.predict import predict
from edgekit.recipe import load_recipe
from edgekit.recipe.allocation import METHODS, Choice, Tensor, allocate, candidates, recipe_text
from edgekit.runtime.values import Options
from tests.conftest import DEMO

CODECS = [make_codec("scaled_palette", b) for b in (2, 3, 4)]


def _tensors(seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(5):
        weights, factor = int(rng.integers(50, 200)), float(np.exp(rng.standard_normal()))
        choices = tuple(Choice(c, weights * c.bits, factor * 4.0**-c.bits) for c in CODECS)
        out.append(Tensor(f"t{i}", weights, factor, choices))
    return out


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("wanted", [2.0, 2.5, 3.0, 3.7, 4.0])
def test_allocation_is_as_good_as_the_hull_allows(seed: int, wanted: float) -> None:
    tensors = _tensors(seed)
    weights = sum(t.weights for t in tensors)
    chosen = allocate(tensors, wanted)
    assert sum(c.bits for c in chosen.values()) <= wanted * weights
    loss = sum(c.loss for c in chosen.values())
    fitting = [
        sum(c.loss for c in combination)
        for combination in itertools.product(*(t.choices for t in tensors))
        if sum(c.bits for c in combination) <= wanted * weights
    ]
    assert min(fitting) <= loss <= 1.6 * min(fitting)  # what remains is less than one step of one tensor


def test_sensitive_tensors_get_more_bits() -> None:
    tensors = [
        Tensor(f"t{i}", 100, s, tuple(Choice(c, 100 * c.bits, s * 4.0**-c.bits) for c in CODECS))
        for i, s in enumerate((1.0, 100.0, 0.01))
    ]
    chosen = allocate(tensors, 3.0)
    assert [chosen[f"t{i}"].codec.bits for i in range(3)] == [3, 4, 2]


def test_too_small_a_size_is_refused_with_the_least() -> None:
    with pytest.raises(RecipeError, match=r"2\.000 is the least"):
        allocate(_tensors(0), 1.9)


def test_the_recipe_repeats_the_choice(tmp_path: Path) -> None:
    chosen = allocate(_tensors(1), 3.1)
    (tmp_path / "made.toml").write_text(recipe_text("made", chosen))
    recipe = load_recipe(tmp_path / "made.toml")
    assert recipe.name == "made"
    assert {name: recipe.rule_for(name).codec for name in chosen} == {n: c.codec for n, c in chosen.items()}


@pytest.mark.parametrize("method", METHODS)
def test_every_candidate_can_be_written_as_a_recipe(method: str, tmp_path: Path) -> None:
    for codec in candidates(64, method):
        (tmp_path / "made.toml").write_text(recipe_text("made", {"t": Choice(codec, 1, 1.0)}))
        assert load_recipe(tmp_path / "made.toml").rule_for("t").codec == codec


def test_a_target_size_is_met_and_its_recipe_repeats_the_bundle(tmp_path: Path) -> None:
    base = ["convert", str(DEMO), "-q", "-o"]
    assert main([*base, str(tmp_path / "a"), "--target-size", "2300K"]) == 0
    size = inspect_bundle(tmp_path / "a.edgekit")["bytes"]
    assert 2100 << 10 < size <= 2300 << 10
    assert main([*base, str(tmp_path / "b"), "--recipe", str(tmp_path / "a.recipe.toml")]) == 0
    for name in ("resident.bin", "flash.bin"):
        assert (tmp_path / "a.edgekit" / name).read_bytes() == (tmp_path / "b.edgekit" / name).read_bytes()


@pytest.mark.slow
def test_text_moves_bits_to_where_they_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The allocation beats one width for all tensors at no more bits; both are chosen with the same text."""
    lines = [f"Once upon a time there was a {w} who liked to {v}. " * 4 for w in ("cat", "dog") for v in ("run", "eat")]
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(lines))
    learn = ["--calibration", str(text), "--calibration-tokens", "300", "--keep-order"]
    (tmp_path / "three.toml").write_text('[[tensors]]\nmatch = "*"\nmethod = "affine"\nbits = 3\n')
    base = ["convert", str(DEMO), "-q", "-o"]
    assert main([*base, str(tmp_path / "all3"), "--recipe", str(tmp_path / "three.toml"), *learn]) == 0
    bits = inspect_bundle(tmp_path / "all3.edgekit")["coded_bits_per_weight"]
    assert main([*base, str(tmp_path / "fitted"), "--target-bpw", str(bits), "--method", "affine", *learn]) == 0
    assert inspect_bundle(tmp_path / "fitted.edgekit")["coded_bits_per_weight"] <= bits
    kl = []
    for name in ("all3", "fitted"):
        bundle = str(tmp_path / f"{name}.edgekit")
        assert main(["eval", bundle, "--text", str(text), "--against", str(DEMO), "--json"]) == 0
        kl.append(json.loads(capsys.readouterr().out)["kl"])
    assert kl[1] < kl[0]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--target-bpw", "3", "--target-size", "3M"], "give one of"),
        (["--target-bpw", "3", "--recipe", "q4"], "not both"),
        (["--target-bpw", "1.5"], "are too few"),
        (["--target-size", "200K"], "does not fit"),
        (["--target-bpw", "3", "--method", "palette"], "takes --method"),
    ],
)
def test_targets_that_cannot_be_are_one_line(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(DEMO), "-o", str(tmp_path / "a"), *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert line in error
    assert "\n" not in error
    assert not list(tmp_path.glob("a*"))


# --- speed ----------------------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A device whose flash is slow, so that a token takes its bytes."""
    reads = tuple(Reads(s, d, 100.0) for s in (4096, 65536) for d in (1, 128))
    rates = {kernel_name(c, b): 1e12 for c, b in KERNELS}
    profile = Profile("made up", 2, True, "uring", 1e6, 1e6, reads, rates)
    path = tmp_path / "profile.json"
    profile.save(path)
    monkeypatch.setattr(device, "default_path", lambda: path)
    return profile


def test_a_target_speed_gets_the_most_bits_that_are_so_fast(
    measured: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["convert", str(DEMO), "--json", "--method", "affine", "--ram", "2M", "-o"]
    found = []
    for name, speed in (("slow", "0.3"), ("fast", "0.5")):
        assert main([*base, str(tmp_path / name), "--target-speed", speed]) == 0
        report = json.loads(capsys.readouterr().out)
        real = predict(tmp_path / f"{name}.edgekit", Options(ram=2 << 20), measured).tokens_per_second
        assert report["expected_tokens_per_second"] == pytest.approx(real, rel=1e-3)  # the manifests' sizes
        assert 0.999 * float(speed) <= real < 1.1 * float(speed)  # the next step of bits would be slower than asked for
        found.append(report["bits_per_weight"])
        assert sum(row["loss"] for row in report["allocation"]) == pytest.approx(1, abs=1e-4)
    assert found[0] > found[1]


def test_a_speed_that_no_bits_give_is_refused_with_the_fastest(
    measured: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["convert", str(DEMO), "-o", str(tmp_path / "a"), "--method", "affine", "--target-speed"]
    assert main([*base, "50", "--ram", "2M"]) == 1
    assert "no bits give 50 tok/s within 2.0 MiB" in capsys.readouterr().err
    assert main([*base, "0.1", "--ram", "20K"]) == 1
    assert "is too small" in capsys.readouterr().err
    assert main([*base, "5", "--target-bpw", "3"]) == 1
    assert "give one of" in capsys.readouterr().err
    device.default_path().unlink()
    assert main([*base, "5"]) == 1
    assert "edgekit profile" in capsys.readouterr().err
    assert not list(tmp_path.glob("a*"))


def test_an_allocation_is_shown_by_kinds_of_tensors_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "bits.svg"
    base = ["convert", str(DEMO), "--plot", str(plot), "-o"]
    assert main([*base, str(tmp_path / "a"), "--target-bpw", "3", "--method", "affine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("layers.*.ffn.down"))
    assert 2 <= float(row.split()[2]) <= 4
    assert "layers.0.ffn.down" in plot.read_text()
    assert main([*base, str(tmp_path / "b"), "--recipe", "q4"]) == 1
