"""A recipe is an ordered list of rules; the first whose pattern matches a tensor's name decides.

As a file (TOML):

    name = "mine"

    [[tensors]]
    match = "layers.*.ffn.*"     # shell pattern over the names `edgekit inspect` shows
    method = "palette"
    bits = 4
    group_size = 32
    solver = "kmeans"            # how values are chosen; the codec's own if not said

    [[tensors]]
    match = "*"
    method = "f16"
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os.path
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.codecs import Codec, make_codec
from edgekit.errors import RecipeError
from edgekit.recipe.file import place, read_rules
from edgekit.recipe.presets import PRESETS, quantized
from edgekit.solvers import Solver, best_with_text, solver_for

DEFAULT = "scaled4"
KEEP = "keep"  # a recipe, and in its rules the solver: arrays as the checkpoint has them


@dataclass(frozen=True)
class Rule:
    """Tensors whose name matches `pattern` get `codec`, with values that the solver called `solver` chooses (None for
    the codec's own)."""

    pattern: str
    codec: Codec
    solver: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the arrays are those that the checkpoint has, and nothing is chosen."""
        return self.solver == KEEP

    def chooser(self) -> Solver:
        """The solver; of rules that keep what is there, one that is never asked."""
        return solver_for(self.codec, None if self.kept else self.solver)

    def table(self) -> dict[str, Any]:
        """The rule as plain values."""
        rows = {"group_size": self.codec.lut_rows} if self.codec.name == "palette" else {}
        solver = {"solver": self.solver} if self.solver is not None else {}
        return {"match": self.pattern, **self.codec.manifest(), **rows, **solver}


@dataclass(frozen=True)
class Recipe:
    """A named list of rules; before them come those of `by_name`, which follow from the checkpoint alone."""

    name: str
    rules: tuple[Rule, ...]
    by_name: Mapping[str, Rule] = field(default_factory=dict)

    def rule_for(self, tensor: str) -> Rule:
        """The rule that decides on a tensor, by its name in the bundle.

        Raises:
            RecipeError: no rule matches.
        """
        if tensor in self.by_name:
            return self.by_name[tensor]
        for rule in self.rules:
            if fnmatch.fnmatchcase(tensor, rule.pattern):
                return rule
        raise RecipeError(f"recipe '{self.name}': no rule matches tensor '{tensor}'; end it with match = \"*\"")

    def table(self) -> list[dict[str, Any]]:
        """The rules as plain values, for the manifest."""
        return [r.table() for r in self.rules]

    def with_text(self) -> Recipe:
        """The recipe where there is calibration text: codes of few bits by error feedback, unless a solver is said."""
        return replace(self, rules=tuple(_with_text(r) for r in self.rules))

    def needs_text(self) -> bool:
        """Whether a solver wants a calibration text."""
        return any(r.chooser().needs_text for r in self.rules)

    def fingerprint(self) -> str:
        """Changes whenever the rules do."""
        return hashlib.sha256(json.dumps(self.table(), sort_keys=True).encode()).hexdigest()


FEW_BITS = 6  # up to which error feedback is worth its time


def _with_text(rule: Rule) -> Rule:
    better = best_with_text(rule.codec)
    if rule.solver is not None or better is None or rule.codec.bits > FEW_BITS:
        return rule
    return Rule(rule.pattern, rule.codec, better)


def preset_names() -> list[str]:
    """Names that `load_recipe` knows."""
    return list(PRESETS)


def load_recipe(
    recipe: str | Path | Recipe | None = None,
    method: str | None = None,
    bits: int | None = None,
    group_size: int | None = None,
) -> Recipe:
    """A recipe from a preset's name, a TOML file, or a method with its options. "keep" has no rules yet: those follow
    from the checkpoint.

    Raises:
        RecipeError: unknown name, bad file, or options that contradict each other.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if method is not None or bits is not None or group_size is not None:
        if recipe is not None:
            raise RecipeError("give either --recipe or --method/--bits/--group-size, not both")
        method = method or "scaled_palette"
        if method in ("f32", "f16", "bf16"):
            return _from_rules(method, [("*", {"method": method, "bits": bits, "group_size": group_size})])
        width = 4 if bits is None else bits
        return _from_rules(f"{method}{width}", quantized(method, width, group_size))
    name = str(recipe or DEFAULT)
    if name == KEEP:
        return Recipe(KEEP, ())
    if name in PRESETS:
        return _from_rules(name, PRESETS[name])
    path = Path(name)
    if path.suffix != ".toml" and not os.path.exists(name):  # Path.exists fails on names that are too long
        raise RecipeError(f"recipe '{name}' is neither a file nor one of: {', '.join(PRESETS)}")
    return _from_file(path)


def _from_rules(name: str, rules: list[tuple[str, dict[str, Any]]]) -> Recipe:
    made = []
    for pattern, table in rules:
        options = dict(table)
        solver = options.pop("solver", None)
        made.append(Rule(pattern, make_codec(options.pop("method"), **options), solver))
        made[-1].chooser()  # refuses one that does not fit
    return Recipe(name, tuple(made))


def _from_file(path: Path) -> Recipe:
    name, tables = read_rules(path)
    rules: list[Rule] = []
    for number, table in enumerate(tables, 1):
        try:
            rules += _from_rules(name, [(table["match"], {k: v for k, v in table.items() if k != "match"})]).rules
        except RecipeError as error:
            raise RecipeError(f"{place(path, number)}: {error}") from error
    return Recipe(name, tuple(rules))
