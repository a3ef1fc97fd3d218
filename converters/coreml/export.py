"""A bundle as a Core ML package: `decode` takes one token, `prefill` a chunk; they share weights and states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program, types

from edgekit.converters.base import Job
from edgekit.converters.coreml.emitter import MilEmitter
from edgekit.converters.lower import lower, refuse_other_mixers, segment
from edgekit.converters.rope import reach
from edgekit.converters.static import Store
from edgekit.converters.weights import Json

TARGET = ct.target.iOS18
PACKAGE = "model.mlpackage"
DECODE, PREFILL = "decode", "prefill"


def export(job: Job) -> None:
    """Writes model.mlpackage and the tokenizer.

    The flash variant has a function for each stretch between feed-forward blocks, `embed` to begin with and `after_I`
    from block I on: each returns the residual and the next block's input, which the runtime takes
    (edgekit_session_feed_forward); the last returns logits. Names end in `_prefill` for a chunk of tokens.

    Raises:
        ConvertError: the context is out of reach, or the model has other blocks.
    """
    model = job.weights.model
    refuse_other_mixers(model, job.kind, ("attention",))
    context = reach(model, job.choices.context)
    chunk = min(job.choices.chunk, context)
    store = Store(job.weights, job.choices.precision, job.choices.bits)
    program = Program()
    flash = job.kind == "coreml-flash"
    for name, tokens in ((DECODE, 1), (PREFILL, chunk)):
        if not flash:
            program.add_function(name, _function(store, model, tokens, context))
            continue
        for after in stretches(model):
            program.add_function(stretch_name(after, name), _stretch(store, model, tokens, context, after))
    program.default_function_name = stretch_name(None, DECODE) if flash else DECODE
    program.export_as_multifunction = True
    save(program, job.folder / PACKAGE)
    job.copy_tokenizer("tokenizer")
    job.about |= {"context": context, "chunk": chunk, "precision": job.choices.precision}


def stretches(model: Json) -> list[int | None]:
    """Where each stretch of a flash variant begins: None, then every feed-forward block."""
    return [None, *(i for i, b in enumerate(model["blocks"]) if b["kind"] != "attention")]


def stretch_name(after: int | None, kind: str) -> str:
    """The function of a stretch."""
    return ("embed" if after is None else f"after_{after}") + ("_prefill" if kind == PREFILL else "")


def _states(model: Json, layers: range, context: int) -> dict[str, Any]:
    """Caches of attention layers."""
    attention = [b for b in model["blocks"] if b["kind"] == "attention"]
    out = {}
    for layer in layers:
        shape = (1, attention[layer]["kv_heads"], context, attention[layer]["head_dim"])
        for which in ("key", "value"):
            out[f"{which}_{layer}"] = mb.state_tensor_placeholder(shape, types.fp16)
    return out


def _function(store: Store, model: Json, tokens: int, context: int) -> Any:
    """ids i32 [1, tokens], position i32 [1] -> logits [1, tokens, vocabulary]."""
    count = sum(b["kind"] == "attention" for b in model["blocks"])
    states = _states(model, range(count), context)
    inputs = {"ids": mb.placeholder((1, tokens), types.int32), "position": mb.placeholder((1,), types.int32)} | states
    with Function(inputs, opset_version=TARGET) as function:
        given = function.inputs
        e = MilEmitter(store, tokens, context, given["position"], {n: given[n] for n in states})
        logits = lower(model, e, given["ids"])
        function.set_outputs([mb.identity(x=logits, name="logits")])
    return function


def _stretch(store: Store, model: Json, tokens: int, context: int, after: int | None) -> Any:
    """(ids, position) or (residual, out, position) -> (residual_out, input) or logits."""
    blocks = model["blocks"]
    begin = 0 if after is None else after + 1
    end = next((i for i in range(begin, len(blocks)) if blocks[i]["kind"] != "attention"), len(blocks))
    first = sum(b["kind"] == "attention" for b in blocks[:begin])
    states = _states(model, range(first, first + end - begin), context)
    kind = types.fp16 if store.precision == "f16" else types.fp32
    inputs: dict[str, Any] = {"position": mb.placeholder((1,), types.int32)}
    if after is None:
        inputs["ids"] = mb.placeholder((1, tokens), types.int32)
    else:
        inputs |= {n: mb.placeholder((1, tokens, model["hidden_size"]), kind) for n in ("residual", "out")}
    with Function(inputs | states, opset_version=TARGET) as function:
        given = function.inputs
        e = MilEmitter(store, tokens, context, given["position"], {n: given[n] for n in states})
        values = (given["ids"],) if after is None else (given["residual"], given["out"])
        stop = segment(model, e, after, values)
        names = ("logits",) if stop.block is None else ("residual_out", "input")
        function.set_outputs([mb.identity(x=v, name=n) for n, v in zip(names, stop.values, strict=True)])
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
    """Replaces random identifiers by fixed ones, and puts the maps of the specification in order."""
    model = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = ct.utils.load_spec(str(model))
    model.write_bytes(spec.SerializeToString(deterministic=True))
    file = path / "Manifest.json"
    told = json.loads(file.read_text())
    entries = sorted(told["itemInfoEntries"].items(), key=lambda item: str(item[1]["path"]))
    names = {old: f"00000000-0000-4000-8000-{i:012d}" for i, (old, _) in enumerate(entries)}
    told["itemInfoEntries"] = {names[old]: entry for old, entry in entries}
    told["rootModelIdentifier"] = names[told["rootModelIdentifier"]]
    file.write_text(json.dumps(told, indent=4, sort_keys=True))
