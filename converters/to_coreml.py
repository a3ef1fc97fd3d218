"""A bundle as a Core ML package: `decode` takes one token, `prefill` a chunk; they share weights and states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from edgekit.converters.base import Job
from edgekit.converters.lower import lower
from edgekit.converters.mil_emitter import MilEmitter
from edgekit.converters.rope import reach
from edgekit.converters.static import Store
from edgekit.converters.weights import Json

TARGET = ct.target.iOS18
PACKAGE = "model.mlpackage"
DECODE, PREFILL = "decode", "prefill"


def export(job: Job) -> None:
    """Writes model.mlpackage and the tokenizer.

    Raises:
        ConvertError: the context is out of reach.
    """
    context = reach(job.weights.model, job.choices.context)
    chunk = min(job.choices.chunk, context)
    store = Store(job.weights, job.choices.precision)
    program = Program()
    for name, tokens in ((DECODE, 1), (PREFILL, chunk)):
        program.add_function(name, _function(store, job.weights.model, tokens, context))
    program.default_function_name = DECODE
    program.export_as_multifunction = True
    save(program, job.folder / PACKAGE)
    shutil.copytree(job.bundle / "tokenizer", job.folder / "tokenizer")
    job.about |= {"context": context, "chunk": chunk, "precision": job.choices.precision}


def _function(store: Store, model: Json, tokens: int, context: int) -> Any:
    """ids i32 [1, tokens], position i32 [1] -> logits [1, tokens, vocabulary]."""
    inputs: dict[str, Any] = {
        "ids": mb.placeholder((1, tokens), types.int32),
        "position": mb.placeholder((1,), types.int32),
    }
    for layer, block in enumerate(b for b in model["blocks"] if b["kind"] == "attention"):
        shape = (1, block["kv_heads"], context, block["head_dim"])
        for which in ("key", "value"):
            inputs[f"{which}_{layer}"] = mb.state_tensor_placeholder(shape, types.fp16)
    with Function(inputs, opset_version=TARGET) as function:
        given = function.inputs
        states = {n: v for n, v in given.items() if n not in ("ids", "position")}
        e = MilEmitter(store, tokens, context, given["position"], states)
        logits = lower(model, e, given["ids"])
        function.set_outputs([mb.identity(x=logits, name="logits")])
    return function


def save(program: Any, path: Path) -> None:
    """Writes a program as a package whose bytes depend on nothing but the program."""
    made = ct.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=TARGET,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        compute_units=ct.ComputeUnit.ALL,
    )
    made.save(str(path))
    _pin(path)


def _pin(path: Path) -> None:
    """Replaces the random identifiers in a package's manifest by fixed ones."""
    file = path / "Manifest.json"
    told = json.loads(file.read_text())
    entries = sorted(told["itemInfoEntries"].items(), key=lambda item: str(item[1]["path"]))
    names = {old: f"00000000-0000-4000-8000-{i:012d}" for i, (old, _) in enumerate(entries)}
    told["itemInfoEntries"] = {names[old]: entry for old, entry in entries}
    told["rootModelIdentifier"] = names[told["rootModelIdentifier"]]
    file.write_text(json.dumps(told, indent=4, sort_keys=True))


__all__ = ["DECODE", "PACKAGE", "PREFILL", "export", "save"]
