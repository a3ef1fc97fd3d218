"""One calibration: a plain bundle of the model reads some text, and what its blocks do is learned from.

The result is a safetensors file of predictors, cuts and orders, block by block; `apply` puts it into an
architecture, whose tensors then come from the checkpoint and from this file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.arch.spec import Block, Ffn, Matrix, Model, Predictor, Vector
from edgekit.bundle.disk import write_file
from edgekit.bundle.layout import SPARSE, neurons_per_unit
from edgekit.bundle.weights import BundleWeights, record_bytes
from edgekit.calibrate import activity
from edgekit.calibrate.activity import Selecting
from edgekit.calibrate.order import coactive_order, runs_per_token
from edgekit.calibrate.predictor import train
from edgekit.checkpoint import Checkpoint
from edgekit.checkpoint.safetensors import read_header
from edgekit.errors import ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.plan.reuse import TOKENS, Bools, reuse_curves, unit_activity

PREFIX = "calibration."
Note = Callable[[str, int, int], None]  # what is being done, done, of all


@dataclass(frozen=True)
class Calibration:
    """What to learn, and from what.

    Attributes:
        text: plain files.
        tokens: how many to read.
        length: most tokens of one run.
        predictor: train predictors.
        order: permute neurons so that those that fire together lie together.
        false_negatives: share of active neurons a predictor may miss.
        false_positives: share of inactive neurons it may take; a higher rank is tried until it does.
        epochs: of training.
        active: for activations that are never zero, the share of neurons to call active.
        seed: of the training.
        gradients: learn from a backward pass, too, how much each output matters (needs torch).
        samples: there is no text yet: the model writes it (`edgekit.calibrate.samples`).
    """

    text: tuple[Path, ...]
    tokens: int = 8192
    length: int = 256
    predictor: bool = False
    order: bool = True
    false_negatives: float = 0.05
    false_positives: float = 0.05
    epochs: int = 8
    active: float = 0.5
    seed: int = 0
    gradients: bool = False
    samples: bool = False

    def per_unit(self, source: Selecting) -> int:
        """Neurons that a unit will hold in the bundle layout."""
        described = source.weights.matrix_entry(source.block["matrices"][0])
        stride = sum(record_bytes(p) for p in described["parts"])
        return neurons_per_unit(source.size, stride)

    def key(self) -> str:
        """Changes when the result would."""
        stamp = [f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in self.text if p.exists()]
        return json.dumps([stamp, dataclasses.asdict(self)], default=str, sort_keys=True)


def calibrate(bundle: Path, model: Model, how: Calibration, out: Path, ram: int, note: Note) -> None:
    """Runs a calibration on a bundle of `model` and writes its result.

    Args:
        bundle: the model in the bundle layout, neurons in the checkpoint's order.
        model: its architecture.
        how: what to learn.
        out: the safetensors file to write; a folder beside it holds the inputs meanwhile.
        ram: budget of the runtime.
        note: called with what is being done, and how far it is.

    Raises:
        ConvertError: too little text, or no block to learn about.
    """
    from safetensors.numpy import save

    blocks = [i for i, b in enumerate(model.blocks) if isinstance(b, Ffn)]
    if how.predictor and all(_chooses(model.blocks[i]) for i in blocks):
        raise ConvertError("--predictor: this model has only expert blocks, whose router already chooses")
    folder = out.with_name(out.name + ".inputs")
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(bundle / "tokenizer")
    runs = activity.token_runs(tokenizer, activity.documents(how.text), how.tokens, min(how.length, model.max_context))
    inputs = activity.capture_inputs(bundle, runs, folder, ram, lambda d, t: note("reading the text", d, t))
    weights = BundleWeights(bundle)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    reports: dict[str, dict[str, Any]] = {}
    neurons: dict[str, Bools] = {}  # units that tokens need, of blocks with predictors
    experts: dict[str, Bools] = {}
    for n, i in enumerate(blocks):
        note("learning from it", n, len(blocks))
        described = weights.data["model"]["blocks"][i]
        x = np.fromfile(inputs[i], np.float32).reshape(-1, model.hidden_size)
        if _chooses(model.blocks[i]):
            reports[str(i)] = {}
            experts[str(i)] = _routed(weights, described, x[-TOKENS:])
        else:
            made, reports[str(i)], needed = _learn(Selecting(weights, described), x, how)
            if needed is not None:
                neurons[str(i)] = needed
            tensors |= {f"{PREFIX}{i}.{name}": array for name, array in made.items()}
        inputs[i].unlink()
    note("learning from it", len(blocks), len(blocks))
    for group in (neurons, experts):
        curves = reuse_curves(list(group.values()), lambda d, t: note("counting what comes back", d, t))
        for name, curve in zip(group, curves, strict=True):
            reports[name]["reuse"] = curve
    folder.rmdir()
    partial = out.with_name(out.name + ".new")
    write_file(partial, save(tensors, {"reports": json.dumps(reports)}))
    partial.replace(out)


def _chooses(block: Block) -> bool:
    """Whether a router chooses among a block's experts."""
    return isinstance(block, Ffn) and block.router is not None


def _routed(weights: BundleWeights, block: dict[str, Any], x: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """The experts that inputs [tokens, hidden] choose, bool [tokens, experts]."""
    count = len(block["matrices"])
    scores = x @ weights.rows(block["router"], 0, 0, count).T
    scores = scores + weights.vector(block["router_bias"]) if "router_bias" in block else scores
    if "choice_bias" in block:  # it is added to probabilities
        wide = np.exp(scores - scores.max(axis=1, keepdims=True))
        sigmoid = block.get("scoring") == "sigmoid"
        p = 1 / (1 + np.exp(-scores)) if sigmoid else wide / wide.sum(axis=1, keepdims=True)
        scores = p + weights.vector(block["choice_bias"])
    chosen = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(chosen, np.argpartition(-scores, block["top_k"] - 1, axis=1)[:, : block["top_k"]], True, axis=1)
    return chosen


def _learn(
    source: Selecting, x: npt.NDArray[np.float32], how: Calibration
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, Any], Bools | None]:
    """Tensors and report of one block, and the units that its predictor takes, bool [TOKENS, units]."""
    made: dict[str, npt.NDArray[np.float32]] = {"cuts": activity.cuts(source, x)}
    sparse = source.block["activation"] in SPARSE
    y = activity.active(source, x, None if sparse else how.active)
    order = np.arange(source.size)
    report: dict[str, Any] = {"active": round(float(y.mean()), 5)}
    if how.order:
        order = coactive_order(y)
        made["order"] = order.astype(np.float32)
        report |= {
            "runs_before": round(runs_per_token(y[-512:], np.arange(source.size)), 2),
            "runs_after": round(runs_per_token(y[-512:], order), 2),
        }
    needed = None
    if how.predictor:
        best = train(
            source,
            x,
            y,
            false_negatives=how.false_negatives,
            false_positives=how.false_positives,
            epochs=how.epochs,
            seed=how.seed,
        )
        made |= {"down": best.down, "up": best.up[order], "bias": best.bias[order]}
        report |= dict(best.report())
        needed = unit_activity(best.predict(x[-TOKENS:])[:, order], how.per_unit(source))
    return {k: np.ascontiguousarray(v) for k, v in made.items()}, report, needed


def extend(checkpoint: Checkpoint, file: Path) -> Checkpoint:
    """A checkpoint with a calibration's tensors among its own."""
    tensors, _ = read_header(file)
    return dataclasses.replace(checkpoint, tensors={**checkpoint.tensors, **tensors})


def apply(model: Model, file: Path) -> Model:
    """The architecture with what a calibration found."""
    from safetensors import safe_open

    with safe_open(file, "numpy") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        reports = json.loads(opened.metadata()["reports"])
    blocks = [
        _applied(i, b, shapes, reports.get(str(i), {})) if isinstance(b, Ffn) else b for i, b in enumerate(model.blocks)
    ]
    return dataclasses.replace(model, blocks=tuple(blocks))


def _applied(i: int, block: Ffn, shapes: dict[str, tuple[int, ...]], report: dict[str, Any]) -> Ffn:
    if block.router is not None:
        return dataclasses.replace(block, reuse=tuple(tuple(point) for point in report.get("reuse", [])))

    def name(what: str) -> str | None:
        return f"{PREFIX}{i}.{what}" if f"{PREFIX}{i}.{what}" in shapes else None

    bundle, order = block.bundles[0], name("order")
    changes: dict[str, object] = {"bundles": (dataclasses.replace(bundle, order=order),)}
    for bias in ("gate_bias", "up_bias"):
        vector = getattr(block, bias)
        if vector is not None and order is not None:
            changes[bias] = dataclasses.replace(vector, order=order)
    norm = block.down_norm
    if norm is not None and norm.weight is not None:
        changes["down_norm"] = dataclasses.replace(norm, weight=dataclasses.replace(norm.weight, order=order))
    cuts = name("cuts")
    if cuts is not None:
        changes["cuts"] = Vector(f"{bundle.name}.cuts", shapes[cuts][0], cuts)
    down, up, bias_name = name("down"), name("up"), name("bias")
    if down is not None and up is not None and bias_name is not None:
        at = f"{bundle.name}.predict"
        changes["predictor"] = Predictor(
            Matrix(f"{at}.down", down, *shapes[down]),  # type: ignore[arg-type]
            Matrix(f"{at}.up", up, *shapes[up]),  # type: ignore[arg-type]
            Vector(f"{at}.bias", shapes[bias_name][0], bias_name),
            tuple(report.items()),
        )
    return dataclasses.replace(block, **changes)  # type: ignore[arg-type]
