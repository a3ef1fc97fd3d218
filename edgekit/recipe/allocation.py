"""Bits for each tensor, so that the whole has a wanted size and the least loss.

The loss of a tensor in a codec is its sensitivity times the share of its energy that the codec loses. What minimises
the sum at a given size is, for one price of a bit, the cheapest choice of each tensor (Shoham and Gersho, 1988); the
price is searched, and what is left is spent where it gains most.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edgekit.codecs import Codec, codec_of, make_codec
from edgekit.errors import RecipeError
from edgekit.recipe.file import KEYS

WIDTHS = (2, 3, 4, 5, 6, 8)
GROUP = 64
METHODS = ("scaled_palette", "trellis", "affine")


@dataclass(frozen=True)
class Choice:
    """A codec of a tensor: what it costs in bits of codes, scales and tables, and the loss that is expected of it."""

    codec: Codec
    bits: int
    loss: float


@dataclass(frozen=True)
class Tensor:
    """A tensor with its choices.

    Attributes:
        name: in the bundle.
        weights: how many it has.
        sensitivity: loss per lost share of its energy.
        choices: in any order.
    """

    name: str
    weights: int
    sensitivity: float
    choices: tuple[Choice, ...]


def candidates(cols: int, method: str = METHODS[0]) -> list[Codec]:
    """Codecs among which an allocation chooses for rows of so many columns, fewest bits first.

    Args:
        cols: of the tensor.
        method: "scaled_palette", "affine", or "trellis" (which has up to 4 bits; scaled palettes beyond).

    Raises:
        RecipeError: another method.
    """
    if method not in METHODS:
        raise RecipeError(f"a target size takes --method {', '.join(METHODS)}, not {method}")
    group = GROUP if cols >= GROUP else 32

    def codec(bits: int) -> Codec:
        if method == "trellis" and bits <= 4:
            return make_codec(method, bits)
        return make_codec("affine" if method == "affine" else "scaled_palette", bits, group_size=group)

    return [codec(bits) for bits in WIDTHS]


def allocate(tensors: Sequence[Tensor], bits_per_weight: float) -> dict[str, Choice]:
    """A choice for each tensor: at most the wanted bits per weight on average.

    Raises:
        RecipeError: even the smallest choices take more.
    """
    budget = bits_per_weight * sum(t.weights for t in tensors)
    hulls = {t.name: _hull(t.choices) for t in tensors}
    chosen = dict.fromkeys(hulls, 0)
    spent = sum(hull[0].bits for hull in hulls.values())
    if spent > budget:
        least = spent / sum(t.weights for t in tensors)
        raise RecipeError(f"{bits_per_weight:.3g} bits per weight are too few; {least:.3f} is the least for this model")
    steps = [
        ((hull[i].loss - hull[i + 1].loss) / (hull[i + 1].bits - hull[i].bits), name, i)
        for name, hull in hulls.items()
        for i in range(len(hull) - 1)
    ]
    for _, name, i in sorted(steps, key=lambda s: (-s[0], s[1], s[2])):  # the steepest gain per bit first
        more = hulls[name][i + 1].bits - hulls[name][i].bits
        if chosen[name] == i and spent + more <= budget:
            chosen[name], spent = i + 1, spent + more
    return {name: hulls[name][i] for name, i in chosen.items()}


def _hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices on the lower convex hull of loss over bits, fewest bits first."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bits, c.loss)):
        if hull and choice.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: Choice, b: Choice) -> float:
    """Loss saved per bit from one choice to a larger one."""
    return (a.loss - b.loss) / (b.bits - a.bits)


@dataclass(frozen=True)
class Allocated:
    """What a tensor got, as plain values.

    Attributes:
        tensor: its name in the bundle.
        codec: that of the recipe.
        weights: how many it has.
        bits_per_weight: of codes, scales and tables.
        sensitivity: loss per lost share of its energy, as a share of all tensors' mean.
        loss: that is expected, as a share of all tensors' sum.
    """

    tensor: str
    codec: str
    weights: int
    bits_per_weight: float
    sensitivity: float
    loss: float


def allocation_of(tensors: Sequence[Tensor], chosen: dict[str, Choice]) -> tuple[Allocated, ...]:
    """What each tensor got, in the order of the model."""
    loss = sum(choice.loss for choice in chosen.values()) or 1.0
    mean = sum(t.sensitivity for t in tensors) / len(tensors) or 1.0
    return tuple(
        Allocated(
            t.name, f"{chosen[t.name].codec.name}{chosen[t.name].codec.bits}", t.weights,
            round(chosen[t.name].bits / t.weights, 3), round(t.sensitivity / mean, 6),
            round(chosen[t.name].loss / loss, 6),
        )
        for t in tensors
    )  # fmt: skip


def recipe_text(name: str, chosen: dict[str, Choice]) -> str:
    """A recipe in TOML that gives each tensor its choice, and all others (none, in the same model) 8 bits."""
    lines = [f'name = "{name}"']
    for tensor, choice in chosen.items():
        table = choice.codec.manifest()
        lines += ["", "[[tensors]]", f'match = "{tensor}"', f'method = "{table.pop("codec")}"']
        lines += [f"{key} = {str(value).lower()}" for key, value in table.items() if key in KEYS]
    return "\n".join([*lines, "", "[[tensors]]", 'match = "*"', 'method = "affine"', "bits = 8", ""])


def to_json(tensors: Sequence[Tensor]) -> str:
    """Tensors as text."""
    return json.dumps(
        [[t.name, t.weights, t.sensitivity, [[c.codec.manifest(), c.bits, c.loss] for c in t.choices]] for t in tensors]
    )


def from_json(text: str) -> list[Tensor]:
    """The inverse of `to_json`."""
    return [
        Tensor(name, weights, sensitivity, tuple(Choice(codec_of(c), bits, loss) for c, bits, loss in choices))
        for name, weights, sensitivity, choices in json.loads(text)
    ]
