"""A bundle's weights under the names of the checkpoint that they came from.

The architecture's description says which matrix came from which tensor; read backwards it gives the
checkpoint's tensors again, codes and scales included. Neurons stay in the bundle's order, which changes
nothing as gate, up and down share it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arch import describe
from edgekit.arch.spec import Bundled, Matrix, Model, Ranges, Vector
from edgekit.codecs.base import F32
from edgekit.codecs.forms import AffineForm, DenseForm
from edgekit.converters.weights import Json, Part, Weight, Weights, feed_forward_parts
from edgekit.errors import BundleError

MOST_GROUP = 128  # columns of one scale in mlx_lm


@dataclass(frozen=True)
class Piece:
    """A matrix of the bundle that is (`ranges` of) a checkpoint's tensor; `mixed`: stored [inputs, outputs]."""

    part: Part
    ranges: Ranges
    mixed: bool


def config_of(bundle: Path) -> Json:
    """The checkpoint's config.json."""
    config: Json = json.loads((bundle / "tokenizer" / "config.json").read_text())
    return config


def described(bundle: Path, weights: Weights) -> Model:
    """The architecture of a bundle's checkpoint.

    Raises:
        BundleError: the bundle is too old to say what its checkpoint's tensors were.
    """
    shapes = weights.bundle.data["provenance"].get("tensors")
    if shapes is None:
        raise BundleError(f"{bundle}: does not name its checkpoint's tensors; convert the checkpoint again")
    return describe(config_of(bundle), {name: tuple(shape) for name, shape in shapes.items()})


def matrices(model: Model, manifest_model: Json) -> dict[str, list[Piece]]:
    """Checkpoint tensor -> the pieces that make it, in the order of the blocks."""
    out: dict[str, list[Piece]] = {}

    def add(matrix: Matrix, part: Part, mixed: bool = False) -> None:
        out.setdefault(matrix.tensor, []).append(Piece(part, matrix.ranges, mixed))

    def walk(value: Any, block: Json) -> None:
        if isinstance(value, Bundled):
            gate, up, down = feed_forward_parts(block, value.name)
            for matrix, part in ((value.gate, gate), (value.up, up)):
                if matrix is not None and part is not None:
                    add(matrix, part)
            add(value.down, down, True)
        elif isinstance(value, Matrix):
            add(value, Part(value.name))
        elif isinstance(value, tuple):
            for item in value:
                walk(item, block)
        elif is_dataclass(value):
            for field in fields(value):
                walk(getattr(value, field.name), block)

    for spec, block in zip(model.blocks, manifest_model["blocks"], strict=True):
        walk(spec, block)
    for field in fields(model):
        if field.name not in ("blocks", "head") or (field.name == "head" and model.head != model.embedding):
            walk(getattr(model, field.name), {})
    return out


def vectors(model: Model, weights: Weights, factors: Mapping[str, float]) -> dict[str, F32]:
    """Checkpoint tensor -> its values, for norms and biases; `factors`: of vectors by name."""
    found: dict[str, list[Vector]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, Vector):
            if value.tensor is not None:
                found.setdefault(value.tensor, []).append(value)
        elif isinstance(value, tuple):
            for item in value:
                walk(item)
        elif is_dataclass(value):
            for field in fields(value):
                walk(getattr(value, field.name))

    walk(model)
    return {name: _joined(pieces, weights, factors) for name, pieces in found.items()}


def _joined(pieces: list[Vector], weights: Weights, factors: Mapping[str, float]) -> F32:
    values = [weights.vector(v.name) * np.float32(factors.get(v.name, 1)) - np.float32(v.add) for v in pieces]
    if not pieces[0].ranges:
        return values[0]
    return np.concatenate(_in_place([v.ranges for v in pieces], values))


def _in_place(ranges: list[Ranges], values: list[Any]) -> list[Any]:
    """Row slices of fused tensors, in the order of the tensor's rows."""
    slices = []
    for spans, value in zip(ranges, values, strict=True):
        at = 0
        for begin, end in spans:
            slices.append((begin, value[at : at + end - begin]))
            at += end - begin
    return [piece for _, piece in sorted(slices, key=lambda s: s[0])]


def assembled(
    pieces: list[Piece], weights: Weights, bits: int, group_size: int, factors: Mapping[str, float]
) -> Weight:
    """One tensor [outputs, inputs] of its pieces: affine if any is quantized, else plain.

    What is no affine code, lies the other way or differs from its fellow pieces is re-quantized to `bits`
    (0: the next of 4 and 8 that holds the codec's own) in groups of `group_size`. `factors`: of parts by label.
    """
    scales = [factors.get(p.part.label, 1.0) for p in pieces]
    kinds = [weights.kind(p.part) for p in pieces]
    forms = {weights.form(p.part) for p in pieces}
    if forms == {"dense"}:
        loaded = [weights.get(p.part) for p in pieces]
        turned = [w.dense().T if p.mixed else w.dense() for w, p in zip(loaded, pieces, strict=True)]
        values = [v if f == 1 else v * np.float32(f) for v, f in zip(turned, scales, strict=True)]
        whole = np.concatenate(_in_place([p.ranges for p in pieces], values)) if pieces[0].ranges else values[0]
        return DenseForm(np.ascontiguousarray(whole), kinds[0]["codec"])
    same = len({(k["codec"], k["bits"], k.get("group_size")) for k in kinds}) == 1
    width = bits or (4 if max(k["bits"] for k in kinds) <= 4 else 8)
    keep = same and forms == {"affine"} and kinds[0]["group_size"] <= MOST_GROUP
    coded = [weights.affine(p.part, width, group_size, keep=keep, transposed=p.mixed) for p in pieces]
    coded = [w if f == 1 else _scaled(w, f) for w, f in zip(coded, scales, strict=True)]
    if not pieces[0].ranges:
        return coded[0]
    spans = [p.ranges for p in pieces]
    codes, scale, bias = (
        np.concatenate(_in_place(spans, [getattr(w, name) for w in coded])) for name in ("codes", "scale", "bias")
    )
    return AffineForm(codes, coded[0].bits, scale, bias, coded[0].group_size, coded[0].symmetric)


def _scaled(w: AffineForm, by: float) -> AffineForm:
    half = np.float16(by)
    return replace(w, scale=w.scale * half, bias=w.bias * half)
