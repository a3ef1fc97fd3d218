"""Defaults of config.json, generated from transformers' config classes (`python -m tests.config_defaults`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_TABLE: dict[str, dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("defaults.json").read_text())


def defaults(model_type: str) -> dict[str, Any]:
    """What transformers takes for each key that config.json leaves out; null where it derives the value."""
    return dict(_TABLE[model_type]["defaults"])


def aliases(model_type: str) -> dict[str, str]:
    """Other names that transformers accepts for keys -> the key."""
    return dict(_TABLE[model_type]["aliases"])
