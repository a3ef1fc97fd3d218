"""Recipe files of every malformed kind: one line that names the file, never a traceback."""

from __future__ import annotations

import fnmatch
import random
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.errors import RecipeError
from edgekit.recipe import Recipe, load_recipe

VALID = """name = "mixed"
[[tensors]]
match = "layers.0.ffn.*"
method = "palette"
bits = 2
group_size = 16
[[tensors]]
match = "*.q"
method = "affine"
bits = 8
symmetric = false
[[tensors]]
match = "*"
method = "f16"
"""
TENSORS = ("embedding", "head", "position", "layers.0.ffn.down", "layers.3.q", "layers.3.router")


def rule(**keys: str) -> str:
    """A file of one rule; `keys`: what replaces the lines of a valid one, as TOML."""
    lines = {"match": "'*'", "method": "'affine'", **keys}
    return "[[tensors]]\n" + "\n".join(f"{key} = {value}" for key, value in lines.items())


BAD = {
    "bits text": (rule(bits="'4'"), "'bits' must be a whole number"),
    "bits float": (rule(bits="4.0"), "'bits' must be a whole number"),
    "bits nan": (rule(bits="nan"), "'bits' must be a whole number"),
    "bits true": (rule(bits="true"), "'bits' must be a whole number"),
    "bits list": (rule(bits="[4]"), "'bits' must be a whole number"),
    "bits date": (rule(bits="2020-01-01"), "'bits' must be a whole number"),
    "bits zero": (rule(bits="0"), "affine has 2, 3, 4, 5, 6, 8 bits"),
    "bits negative": (rule(bits="-4"), "affine has 2, 3, 4, 5, 6, 8 bits"),
    "bits huge": (rule(bits="9" * 100), "'bits' must be a whole number"),
    "bits beyond Python": (rule(bits="9" * 5000), "not valid TOML"),
    "group text": (rule(group_size="'32'"), "'group_size' must be a whole number"),
    "group float": (rule(group_size="32.0"), "'group_size' must be a whole number"),
    "group true": (rule(group_size="true"), "'group_size' must be a whole number"),
    "group odd": (rule(group_size="33"), "32, 64, 128, 256"),
    "group huge": (rule(method="'palette'", group_size="9223372036854775807"), "nine digits"),
    "group negative": (rule(method="'palette'", group_size="-1"), "group size"),
    "symmetric text": (rule(symmetric="'yes'"), "'symmetric' must be true or false"),
    "symmetric number": (rule(symmetric="1"), "'symmetric' must be true or false"),
    "symmetric elsewhere": (rule(method="'palette'", symmetric="true"), "does not take"),
    "bits elsewhere": (rule(method="'f16'", bits="8"), "has 16 bits"),
    "match number": (rule(match="1"), "'match' must be"),
    "match list": (rule(match="['*']"), "'match' must be"),
    "match empty": (rule(match="''"), "'match' must be"),
    "match lines": (rule(match='"a\\nb"'), "'match' must be"),
    "method number": (rule(method="4"), "'method' must be"),
    "method lines": (rule(method='"a\\nb"'), "'method' must be"),
    "method unknown": (rule(method="'zip'"), "codec 'zip' is unknown"),
    "no match": ("[[tensors]]\nmethod = 'f16'", "has no 'match'"),
    "no method": ("[[tensors]]\nmatch = '*'", "has no 'method'"),
    "unknown key": (rule(bit="4"), "unknown key 'bit'"),
    "unknown key of two lines": (rule() + '\n"a\\nb" = 1', "unknown key 'a\\\\nb'"),
    "unknown key of the file": ("nam = 'x'\n" + rule(), "unknown key 'nam'"),
    "a table of two": (rule() + "\n[tensors.more]\nx = 1", "unknown key 'more'"),
    "same pattern twice": (rule() + "\n" + rule(bits="8"), "'\\*' a second time"),
    "same key twice": (rule() + "\nmatch = '*'", "not valid TOML"),
    "not a list": ("[tensors]\nmatch = '*'\nmethod = 'f16'", "no \\[\\[tensors\\]\\]"),
    "not tables": ("tensors = [1, 2]", "number 1: is not a table"),
    "mixed": ("tensors = [{match = '*', method = 'f16'}, 'x']", "number 2: is not a table"),
    "empty list": ("tensors = []", "no \\[\\[tensors\\]\\]"),
    "name number": ("name = 1\n" + rule(), "'name' must be"),
    "name lines": ('name = "a\\nb"\n' + rule(), "'name' must be"),
    "empty": ("", "no \\[\\[tensors\\]\\]"),
    "torn": ("[[tensors", "not valid TOML"),
    "deep": ("x = " + "[" * 10_000, "not valid TOML"),
    "huge file": (rule() + "\n# " + "x" * (2 << 20), "larger than"),
    "zero bytes": ("\0" * 100, "not valid TOML"),
}


@pytest.mark.parametrize("case", BAD)
def test_each_defect_of_a_recipe_file_is_one_line(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()  # so without line feeds
    assert len(str(caught.value)) < 500 + len(str(path))


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    for name in ("folder.toml", "latin.toml", "none.toml", "x" * 5000, "x" * 5000 + ".toml"):
        assert main(["convert", "none", "-o", str(tmp_path / "out"), "--recipe", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "Traceback" not in error


def test_numbers_on_the_command_line_are_taken_as_they_are() -> None:
    with pytest.raises(RecipeError, match="not 0"):
        load_recipe(method="palette", bits=0)
    with pytest.raises(RecipeError, match="32, 64, 128, 256"):
        load_recipe(method="affine", bits=4, group_size=0)


def mutated(text: str, rng: random.Random) -> str:
    """The file with one to three small changes: of characters, lines or values."""
    values = ["-1", "1e9", "true", "[]", "{}", "''", "'*'", '"\\u0000"', "9" * 30, "nan", "[[]]", "{match = 1}", "0x4"]
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        i = rng.randrange(len(lines))
        change = rng.randrange(6)
        if change == 0:
            del lines[i]
        elif change == 1:
            lines.insert(i, rng.choice(lines))
        elif change == 2 and "=" in lines[i]:
            lines[i] = lines[i].split("=")[0] + "= " + rng.choice(values)
        elif change == 3 and "=" in lines[i]:
            lines[i] = (
                rng.choice(["bits", "match", "method", "group_size", "name", "x"]) + " =" + lines[i].split("=")[1]
            )
        else:
            at = rng.randrange(len(lines[i]) + 1)
            lines[i] = lines[i][:at] + rng.choice("\"'[]{}=#\\.,\t\0é0*") + lines[i][at + (change == 4) :]
        text = "\n".join(lines)
    return text


def loaded(path: Path) -> Recipe | str:
    """A recipe, or what is wrong with it."""
    try:
        return load_recipe(path)
    except RecipeError as error:
        return str(error)


def test_a_changed_recipe_is_a_recipe_or_one_line(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "changed.toml"
    refused = 0
    for _ in range(1500):
        path.write_text(mutated(VALID, rng), encoding="utf-8")
        recipe = loaded(path)
        if isinstance(recipe, str):
            assert recipe.startswith(f"{path}: ")
            assert recipe.isprintable()
            refused += 1
            continue
        assert len(recipe.fingerprint()) == 64
        for tensor in TENSORS:
            if any(fnmatch.fnmatchcase(tensor, r.pattern) for r in recipe.rules):
                assert 1 <= recipe.rule_for(tensor).codec.bits <= 32
            else:
                with pytest.raises(RecipeError, match="no rule matches"):
                    recipe.rule_for(tensor)
    assert 500 < refused < 1500
