"""Forged descriptions of blocks: an error in one line or a model that runs, never a crash."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle.manifest import sign
from edgekit.conversion import convert
from edgekit.errors import EdgekitError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

VALUES: list[Any] = [None, 0, 1, -1, 3, 1 << 24, 1 << 40, 1e300, -0.5, True, "", "layers.0.o", "sigmoid", [], {}, [1]]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def attempt(bundle: Path) -> str:
    """Runs a bundle; the error's text, or none."""
    try:
        with Session(bundle, Options(context=32, batch=4, ram="64MB")) as session:
            session.eval([5, 6, 7, 8, 9])
            session.eval([5])
    except EdgekitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "name", ["lfm2_biased", "lfm2_moe", "gpt_oss", "qwen2_moe", "granite", "qwen3_5", "gemma4", "bitnet"]
)
def test_every_member_of_a_block_may_be_anything(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    file = bundle / "manifest.json"
    whole = json.loads(file.read_text())
    del whole["checksum"]
    # The first block of each kind, and the head.
    kinds = [json.dumps([b["kind"], b.get("parallel")]) for b in whole["model"]["blocks"]]
    first = sorted(kinds.index(kind) for kind in set(kinds))
    paths = [("blocks", i, *p) for i in first for p in places(whole["model"]["blocks"][i])]
    paths += [("head", *p) for p in places(whole["model"]["head"])]
    opened = refused = 0
    for path in paths:
        for value in VALUES:
            forged = copy.deepcopy(whole)
            holder = forged["model"]
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = value
            file.write_bytes(sign(forged))
            error = attempt(bundle)
            assert len(error.splitlines()) <= 1
            refused += bool(error)
            opened += not error
    assert opened > 0
    assert refused > len(paths)
