"""A recipe is an ordered list of rules; the first whose pattern matches a tensor's name decides.

As a file (TOML):

    name = "mine"

    [[tensors]]
    match = "layers.*.ffn.*"     # shell pattern over the names `edgekit inspect` shows
    method = "palette"
    bits = 4
    group_size = 32

    [[tensors]]
    match = "*"
    method = "f16"
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.codecs import Codec, make_codec
from edgekit.errors import RecipeError
from edgekit.recipe.presets import PRESETS, quantized

OPTIONS = {"match", "method", "bits", "group_size", "symmetric"}
DEFAULT = "palette4"


@dataclass(frozen=True)
class Rule:
    """Tensors whose name matches `pattern` get `codec`."""

    pattern: str
    codec: Codec


@dataclass(frozen=True)
class Recipe:
    """A named list of rules."""

    name: str
    rules: tuple[Rule, ...]

    def codec_for(self, tensor: str) -> Codec:
        """The codec of a tensor, by its name in the bundle.

        Raises:
            RecipeError: no rule matches.
        """
        for rule in self.rules:
            if fnmatch.fnmatchcase(tensor, rule.pattern):
                return rule.codec
        raise RecipeError(f"recipe '{self.name}': no rule matches tensor '{tensor}'; end it with match = \"*\"")

    def table(self) -> list[dict[str, Any]]:
        """The rules as plain values, for the manifest."""
        return [
            {"match": r.pattern, **r.codec.manifest(), **({"group_size": r.codec.lut_rows} if r.codec.has_lut else {})}
            for r in self.rules
        ]

    def fingerprint(self) -> str:
        """Changes whenever the rules do."""
        return hashlib.sha256(json.dumps(self.table(), sort_keys=True).encode()).hexdigest()


def preset_names() -> list[str]:
    """Names that `load_recipe` knows."""
    return list(PRESETS)


def load_recipe(
    recipe: str | Path | Recipe | None = None,
    method: str | None = None,
    bits: int | None = None,
    group_size: int | None = None,
) -> Recipe:
    """A recipe from a preset's name, a TOML file, or a method with its options.

    Raises:
        RecipeError: unknown name, bad file, or options that contradict each other.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if method is not None or bits is not None or group_size is not None:
        if recipe is not None:
            raise RecipeError("give either --recipe or --method/--bits/--group-size, not both")
        method = method or "palette"
        if method in ("f32", "f16", "bf16"):
            return _from_rules(method, [("*", {"method": method, "bits": bits, "group_size": group_size})])
        return _from_rules(f"{method}{bits or 4}", quantized(method, bits or 4, group_size))
    name = str(recipe or DEFAULT)
    if name in PRESETS:
        return _from_rules(name, PRESETS[name])
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        raise RecipeError(f"recipe '{name}' is neither a file nor one of: {', '.join(PRESETS)}")
    return _from_file(path)


def _from_rules(name: str, rules: list[tuple[str, dict[str, Any]]]) -> Recipe:
    made = []
    for pattern, table in rules:
        options = dict(table)
        made.append(Rule(pattern, make_codec(options.pop("method"), **options)))
    return Recipe(name, tuple(made))


def _from_file(path: Path) -> Recipe:
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    tables = loaded.get("tensors")
    if not isinstance(tables, list) or not tables:
        raise RecipeError(f"{path}: has no [[tensors]] tables")
    rules = []
    for number, table in enumerate(tables, 1):
        unknown = set(table) - OPTIONS
        if unknown or not isinstance(table.get("match"), str) or not isinstance(table.get("method"), str):
            what = f"unknown key '{min(unknown)}'" if unknown else "needs match and method"
            raise RecipeError(f"{path}: [[tensors]] number {number}: {what}")
        rules.append((table["match"], {k: v for k, v in table.items() if k != "match"}))
    return _from_rules(str(loaded.get("name", path.stem)), rules)
