"""Recipe files: TOML, checked key by key, so that each defect is one line that names the file and the rule."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError

KEYS = ("match", "method", "bits", "group_size", "symmetric", "state_bits", "solver")  # of a rule
LARGEST = 1 << 20  # bytes of a file
LONGEST = 200  # characters of a name or a pattern
DIGITS = 1_000_000_000  # numbers are below


def read_rules(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """The name of a recipe and its rules, each with match and method, and with values of the right types.

    Raises:
        RecipeError: the file cannot be read, or is not a recipe.
    """
    loaded = _load(path)
    unknown = sorted(set(loaded) - {"name", "tensors"})
    if unknown:
        raise RecipeError(f"{path}: unknown key {_quoted(unknown[0])}; a recipe has 'name' and [[tensors]] tables")
    name = _text(loaded.get("name", path.stem), "name", str(path))
    rules = loaded.get("tensors")
    if not isinstance(rules, list) or not rules:
        raise RecipeError(f"{path}: has no [[tensors]] tables")
    seen: set[str] = set()
    for number, rule in enumerate(rules, 1):
        where = place(path, number)
        _check(rule, where)
        if rule["match"] in seen:
            raise RecipeError(f"{where}: has match = {_quoted(rule['match'])} a second time; the first rule decides")
        seen.add(rule["match"])
    return name, rules


def place(path: Path, number: int) -> str:
    """What errors call the rule of this number, counted from 1."""
    return f"{path}: [[tensors]] number {number}"


def _load(path: Path) -> dict[str, Any]:
    """The file as TOML."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise RecipeError(f"{path}: cannot read: {error.strerror}") from error
    if len(raw) > LARGEST:
        raise RecipeError(f"{path}: is larger than {LARGEST} bytes, so it is no recipe")
    try:
        return tomllib.loads(raw.decode())
    except RecursionError as error:
        raise RecipeError(f"{path}: not valid TOML: it is nested too deeply") from error
    except ValueError as error:  # of TOML, of UTF-8, and of numbers with thousands of digits
        raise RecipeError(f"{path}: not valid TOML: {' '.join(str(error).split())[:LONGEST]}") from error


def _check(rule: object, where: str) -> None:
    """Refuses a rule with unknown or missing keys, or with values of other types."""
    if not isinstance(rule, dict):
        raise RecipeError(f"{where}: is not a table")
    unknown = sorted(set(rule) - set(KEYS))
    if unknown:
        raise RecipeError(f"{where}: unknown key {_quoted(unknown[0])}; a rule has {', '.join(KEYS)}")
    for key in ("match", "method"):
        if key not in rule:
            raise RecipeError(f"{where}: has no '{key}'; each rule needs match and method")
        _text(rule[key], key, where)
    for key in ("bits", "group_size", "state_bits"):
        value = rule.get(key, 0)
        if type(value) is not int or abs(value) >= DIGITS:  # true is an int to Python
            raise RecipeError(f"{where}: '{key}' must be a whole number of at most nine digits")
    if "solver" in rule:
        _text(rule["solver"], "solver", where)
    if not isinstance(rule.get("symmetric", False), bool):
        raise RecipeError(f"{where}: 'symmetric' must be true or false")


def _text(value: object, key: str, where: str) -> str:
    """A value that is a line of text."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= LONGEST:
        raise RecipeError(f"{where}: '{key}' must be a line of 1 to {LONGEST} characters in quotes")
    return value


def _quoted(text: str) -> str:
    """A text from the file in quotes, control characters escaped, cut if it is long."""
    return repr(text[:50])
