"""Recipes: presets, files, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import RecipeError
from edgekit.recipe import load_recipe, preset_names
from tests.hostile.test_recipes import VALID


def test_first_matching_rule_of_a_file_decides(tmp_path: Path) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text(VALID)
    recipe = load_recipe(path)
    assert recipe.name == "mixed"
    assert recipe.rule_for("layers.0.ffn.down").codec.manifest() == {"codec": "palette", "bits": 2}
    assert recipe.rule_for("layers.0.ffn.down").codec.lut_rows == 16
    assert recipe.rule_for("layers.9.q").codec.manifest()["symmetric"] is False
    assert recipe.rule_for("layers.9.k").codec.name == "f16"


@pytest.mark.parametrize("name", preset_names())
def test_presets_cover_every_tensor(name: str) -> None:
    recipe = load_recipe(name)
    for tensor in ("embedding", "head", "position", "layers.3.q", "layers.3.router", "layers.3.ffn.7.up"):
        assert recipe.rule_for(tensor).codec.bits <= 32


def test_three_words_make_a_recipe() -> None:
    recipe = load_recipe(method="affine", bits=4, group_size=128)
    assert recipe.rule_for("layers.0.o").codec.manifest()["group_size"] == 128
    assert recipe.rule_for("head").codec.bits == 8
    assert load_recipe(bits=3).rule_for("layers.0.o").codec.name == "scaled_palette"
    assert load_recipe(method="palette", bits=3).rule_for("layers.0.o").codec.lut_rows == 32
    assert load_recipe(method="f16").rule_for("head").codec.name == "f16"


def test_uncovered_tensors_and_contradictions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "part.toml"
    path.write_text("[[tensors]]\nmatch = 'head'\nmethod = 'f16'\n")
    with pytest.raises(RecipeError, match="no rule matches"):
        load_recipe(path).rule_for("embedding")
    with pytest.raises(RecipeError, match="not both"):
        load_recipe("q4", bits=3)
    with pytest.raises(RecipeError, match="palette4"):
        load_recipe("palette7")


def test_a_trellis_may_have_more_bits_of_state(tmp_path: Path) -> None:
    path = tmp_path / "trellis.toml"
    rule = "[[tensors]]\nmatch = '*'\nmethod = '{}'\nbits = 2\nstate_bits = {}\n"
    path.write_text(rule.format("trellis", 14))
    assert load_recipe(path).rule_for("head").codec.manifest()["state_bits"] == 14
    for method, state_bits, why in (
        ("trellis", 17, "12 to 16 bits of state"),
        ("trellis", "'a'", "'state_bits' must be a whole number"),
        ("palette", 14, "does not take"),
    ):
        path.write_text(rule.format(method, state_bits))
        with pytest.raises(RecipeError, match=why):
            load_recipe(path)
