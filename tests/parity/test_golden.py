"""Trained checkpoints print their known text and reach their known perplexity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import edgekit
from edgekit.conversion import convert
from edgekit.evaluate import perplexity
from edgekit.runtime.values import Sampling

GREEDY = Sampling(temperature=0)
PROMPT = "Once upon a time"
STORIES = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
    "she saw a big, red ball. She wanted to play with it, but it was too high."
)


def documents(data: Path) -> list[str]:
    lines = (data / "text" / "tinystories_valid.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines[:200]]


@pytest.mark.parametrize("recipe", ["f32", "f16"])
def test_stories260k_prints_its_known_text(recipe: str, stories: Path, tmp_path: Path) -> None:
    bundle = convert(stories, tmp_path / "stories", recipe).path
    with edgekit.load(bundle) as model:
        text = PROMPT + "".join(p.text for p in model.generate(PROMPT, 70, GREEDY))
    assert text.startswith(STORIES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "known", "bits"), [("stories260K", 3.559, 0.863), ("tinystories-chat-3M", 6.508, 0.662)]
)
def test_perplexity_is_the_known_one(name: str, known: float, bits: float, data: Path, tmp_path: Path) -> None:
    bundle = convert(data / "models" / name, tmp_path / "bundle", "f32").path
    with edgekit.load(bundle) as model:
        found = perplexity(model, documents(data))
    assert found.perplexity == pytest.approx(known, rel=0.005)
    assert found.bits_per_byte == pytest.approx(bits, rel=0.005)


@pytest.mark.slow
def test_half_precision_weights_cost_no_perplexity(stories: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for recipe in ("f32", "f16"):
        with edgekit.load(convert(stories, tmp_path / recipe, recipe).path) as model:
            found.append(perplexity(model, documents(data)[:40]).perplexity)
    assert found[1] == pytest.approx(found[0], rel=0.001)
