"""Where everything of a bundle lies: decided from shapes and codecs alone, before any weight is read.

Matrices are cut into units, the least that is read from flash at once: some rows, each at a fixed
stride, padded to 4096 bytes. The rows of an FFN are bundles: gate row i, up row i and down column i of
neuron i side by side (row-column bundling, "LLM in a flash", arXiv 2312.11514, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekit.arch.spec import (
    Attention,
    Block,
    Bundled,
    Convolution,
    Ffn,
    LayerInput,
    LinearAttention,
    Matrix,
    Model,
    Norm,
    Vector,
)
from edgekit.codecs import Codec, make_codec
from edgekit.recipe import Recipe, Rule
from edgekit.solvers import Solver

ALIGNMENT = 4096
VECTOR_ALIGNMENT = 64
UNIT_TARGET = 128 << 10  # bytes; large enough for bandwidth, small enough to be a choice
LITTLE_WASTE = 1.01  # bytes of a unit to those of its rows
MOST_WASTE = 1 / 3  # padding that a unit of few neurons may have
SPARSE = ("relu", "relu2", "threshold", "shifted_relu")  # activations that leave most neurons at zero
LAYOUTS = ("auto", "bundle", "split")
PREDICTOR = Rule("*", make_codec("affine", 8, group_size=32))

RESIDENT, FLASH = "resident.bin", "flash.bin"
VISION = "vision"  # the folder of a bundle that holds another one, of the encoder of pictures
UNITS, MANIFEST = "units.bin", "manifest.json"


@dataclass(frozen=True)
class PartPlan:
    """One record of a row: a matrix in a codec, whose arrays a solver chooses. `by_column` takes the matrix's columns
    as rows."""

    name: str
    source: Matrix
    rule: Rule
    rows: int
    cols: int
    by_column: bool = False
    order: str | None = None

    @property
    def codec(self) -> Codec:
        return self.rule.codec

    @property
    def solver(self) -> Solver:
        return self.rule.chooser()

    @property
    def bytes(self) -> int:
        return self.codec.record_bytes(self.cols)

    @property
    def lut_name(self) -> str | None:
        return f"{self.name}.lut" if self.codec.has_lut else None

    @property
    def lut_rows(self) -> int:
        """Rows per table, for the manifest: never 0."""
        return self.codec.lut_rows or self.rows


@dataclass(frozen=True)
class MatrixPlan:
    """A matrix (or FFN bundle) and its place."""

    name: str
    file: str
    parts: tuple[PartPlan, ...]
    offset: int
    rows_per_unit: int
    first_unit: int

    @property
    def rows(self) -> int:
        return self.parts[0].rows

    @property
    def row_stride(self) -> int:
        return sum(p.bytes for p in self.parts)

    @property
    def unit_stride(self) -> int:
        return round_up(self.rows_per_unit * self.row_stride, ALIGNMENT)

    @property
    def units(self) -> int:
        return -(-self.rows // self.rows_per_unit)

    @property
    def bytes(self) -> int:
        return self.units * self.unit_stride


@dataclass(frozen=True)
class VectorPlan:
    """A vector (`source`) or a palette's tables (`count` f16 values), and its place in the segment."""

    name: str
    count: int
    dtype: str
    offset: int
    source: Vector | None = None

    @property
    def bytes(self) -> int:
        return self.count * (2 if self.dtype == "f16" else 4)


@dataclass(frozen=True)
class Layout:
    """The whole bundle; `vectors` lie at the beginning of resident.bin."""

    vectors: tuple[VectorPlan, ...]
    matrices: tuple[MatrixPlan, ...]
    vectors_bytes: int
    resident_bytes: int
    flash_bytes: int
    unit_count: int


def round_up(value: int, to: int) -> int:
    """The next multiple."""
    return -(-value // to) * to


def rows_per_unit(rows: int, stride: int, target: int = UNIT_TARGET) -> int:
    """Rows whose unit wastes least padding, near the target size; a multiple of 32 or a power of two if that wastes
    little, as of these most strides need no padding."""
    most = max(1, min(rows, target // stride))
    if most == rows:
        return rows

    def waste(n: int) -> float:
        return round(round_up(n * stride, ALIGNMENT) / (n * stride), 3)

    choices = [n for n in (1, 2, 4, 8, 16) if n <= most] + list(range(32, most + 1, 32))
    choices = [n for n in choices if n >= most // 2] or choices[-1:]
    best = min(choices, key=lambda n: (waste(n), -n))
    if waste(best) <= LITTLE_WASTE:
        return best

    def whole(n: int) -> float:  # with the last unit, which may be partly empty
        return round(-(-rows // n) * round_up(n * stride, ALIGNMENT) / (rows * stride), 3)

    return min(range(max(1, most // 2), most + 1), key=lambda n: (whole(n), -n))


def neurons_per_unit(rows: int, stride: int) -> int:
    """Rows of the smallest unit that wastes no more than a third: what one neuron costs to read."""
    most = max(1, min(rows, 16 * ALIGNMENT // stride))
    least = max(1, min(most, ALIGNMENT // stride))

    def waste(n: int) -> float:
        return 1 - n * stride / round_up(n * stride, ALIGNMENT)

    return next((n for n in range(least, most + 1) if waste(n) <= MOST_WASTE), min(range(least, most + 1), key=waste))


@dataclass(frozen=True)
class Arrangement:
    """How feed-forward weights are laid out.

    Attributes:
        layout: "bundle" keeps all parts of a neuron side by side; "split" keeps what decides whether it
            is active (gate, or up without a gate) in a matrix of its own; "auto" is "bundle".
        unit_bytes: target size of a unit; None for the smallest where single neurons are read (with a
            predictor, or split) and 128 KiB elsewhere, where padding would only cost.
    """

    layout: str = "auto"
    unit_bytes: int | None = None

    def rows(self, block: Ffn, rows: int, stride: int) -> int:
        """Neurons per unit."""
        if self.unit_bytes is not None:
            return rows_per_unit(rows, stride, self.unit_bytes)
        chooses = block.router is None and (block.predictor is not None or self.layout == "split")
        return neurons_per_unit(rows, stride) if chooses else rows_per_unit(rows, stride)


def selector_name(bundle: str) -> str:
    """Name of the matrix that holds a bundle's selecting part, in the split layout."""
    return f"{bundle}.selector"


def norms_of(block: Block) -> list[Norm]:
    """The norms a block has."""
    listed = [block.pre_norm, block.post_norm, block.out_norm]
    if isinstance(block, Attention):
        listed += [block.q_norm, block.k_norm, block.v_norm, block.o_norm]
    if isinstance(block, Ffn):
        listed.append(block.down_norm)
    if isinstance(block, LinearAttention):
        listed.append(block.norm)
    return [n for n in listed if n is not None]


def _block_vectors(block: Block) -> list[Vector | None]:
    vectors: list[Vector | None] = [v for n in norms_of(block) for v in (n.weight, n.bias)]
    if isinstance(block, Attention | Ffn | LayerInput):
        vectors.append(block.out_scale)
    if isinstance(block, LayerInput):
        return vectors
    if isinstance(block, Attention):
        values = None if block.v is block.k else block.v_bias
        biases = [block.q_bias, block.k_bias, values, block.o_bias, block.gate_bias]
        return [*vectors, *biases, block.sinks]
    if isinstance(block, LinearAttention):
        return [*vectors, block.kernel, block.decay_log, block.decay_bias]
    if isinstance(block, Convolution):
        biases = [block.gate_in_bias, block.gate_out_bias, block.value_bias, block.o_bias]
        return [*vectors, block.kernel, *biases, block.kernel_bias]
    if block.predictor is not None:
        vectors.append(block.predictor.bias)
    vectors += [block.router_bias, block.choice_bias]
    return [*vectors, block.cuts, block.gate_bias, block.up_bias, block.down_bias]


def vectors_of(model: Model) -> list[Vector]:
    """Every vector of a model, in the order of use."""
    listed: list[Vector | None] = [v for r in model.ropes for v in (r.inv_freq, r.long_inv_freq)]
    layers = model.layer_embedding
    merged = model.merge.norm if model.merge else None
    for norm in (model.embedding_norm, layers.norm if layers else None, model.final_norm, merged, model.head_norm):
        listed += [norm.weight, norm.bias] if norm is not None else []
    for block in model.blocks:
        listed += _block_vectors(block)
    listed += [model.embedding_bias, model.head_project_bias, model.head_bias]
    return [v for v in listed if v is not None]


def _resident(model: Model) -> list[Matrix]:
    ends = [model.embedding, model.position, model.token_types, model.embedding_project]
    listed = [m for m in ends if m is not None]
    if model.layer_embedding is not None:
        listed.append(model.layer_embedding.project)
    for block in model.blocks:
        if isinstance(block, Attention):
            values = None if block.v is block.k else block.v
            listed += [m for m in (block.q, block.k, values, block.gate, block.o) if m is not None]
        elif isinstance(block, LayerInput):
            listed += [block.gate, block.o]
        elif isinstance(block, LinearAttention):
            listed += [block.q, block.k, block.v, block.gate, block.beta, block.decay, block.o]
        elif isinstance(block, Convolution):
            listed += [block.gate_in, block.gate_out, block.value, block.o]
        elif block.router is not None:
            listed.append(block.router)
        elif block.predictor is not None:
            listed += [block.predictor.down, block.predictor.up]
        if isinstance(block, Ffn) and block.output_gate is not None:
            listed.append(block.output_gate)
    if model.head_project is not None:
        listed.append(model.head_project)
    return listed + ([model.head] if model.head is not None and model.head is not model.embedding else [])


def _rule(recipe: Recipe, m: Matrix) -> Rule:
    """A matrix's rule; predictors have 8 bits whatever the recipe says, as they were measured with them."""
    return PREDICTOR if ".predict." in m.name else recipe.rule_for(m.name)


def _bundle_parts(bundle: Bundled, recipe: Recipe) -> list[PartPlan]:
    rows = [m for m in (bundle.gate, bundle.up) if m is not None]
    made = [PartPlan(m.name, m, recipe.rule_for(m.name), m.rows, m.cols, order=bundle.order) for m in rows]
    down = bundle.down
    made.append(PartPlan(down.name, down, recipe.rule_for(down.name), down.cols, down.rows, True, bundle.order))
    return made


def plan_layout(model: Model, recipe: Recipe, arrangement: Arrangement | None = None) -> Layout:
    """Places every tensor of a model.

    Raises:
        RecipeError: the recipe says nothing about a tensor.
    """
    arranged = arrangement or Arrangement()
    parts: list[tuple[str, str, tuple[PartPlan, ...], Ffn | None]] = []
    for m in _resident(model):
        part = PartPlan(m.name, m, _rule(recipe, m), m.rows, m.cols)
        parts.append((RESIDENT, m.name, (part,), None))
    if model.layer_embedding is not None:
        m = model.layer_embedding.table
        parts.append((FLASH, m.name, (PartPlan(m.name, m, _rule(recipe, m), m.rows, m.cols),), None))
    for block in model.blocks:
        for bundle in block.bundles if isinstance(block, Ffn) else ():
            made = _bundle_parts(bundle, recipe)
            if arranged.layout == "split" and isinstance(block, Ffn) and block.router is None:
                parts.append((FLASH, selector_name(bundle.name), (made.pop(0),), block))
            parts.append((FLASH, bundle.name, tuple(made), block if isinstance(block, Ffn) else None))

    vectors, at = [], 0
    for v in vectors_of(model):
        vectors.append(VectorPlan(v.name, v.count, "f32", at, v))
        at = round_up(at + 4 * v.count, VECTOR_ALIGNMENT)
    for _, _, group, _ in parts:
        for p in group:
            if p.lut_name is not None:
                count = p.codec.tables(p.rows) << p.codec.bits
                vectors.append(VectorPlan(p.lut_name, count, "f16", at))
                at = round_up(at + 2 * count, VECTOR_ALIGNMENT)
    ends = {RESIDENT: round_up(at, ALIGNMENT), FLASH: 0}
    matrices, unit = [], 0
    for file, name, group, ffn in parts:
        rows, stride = group[0].rows, sum(p.bytes for p in group)
        per_unit = rows_per_unit(rows, stride) if ffn is None else arranged.rows(ffn, rows, stride)
        if model.layer_embedding is not None and name == model.layer_embedding.table.name:
            per_unit = neurons_per_unit(rows, stride)  # a token reads one row
        plan = MatrixPlan(name, file, group, ends[file], per_unit, unit)
        matrices.append(plan)
        ends[file] += plan.bytes
        unit += plan.units
    return Layout(tuple(vectors), tuple(matrices), at, ends[RESIDENT], ends[FLASH], unit)


def rows_per_step(plan: MatrixPlan, elements: int = 1 << 21) -> int:
    """Rows to encode at a time: whole units, whole tables, about `elements` weights."""
    step = plan.rows_per_unit
    for part in plan.parts:
        if part.codec.lut_rows:
            step = math.lcm(step, part.codec.lut_rows)
    per_row = sum(p.cols for p in plan.parts)
    return step * max(1, elements // (step * per_row))
