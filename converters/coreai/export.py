"""A bundle as a Core AI model: `decode` takes one token, `prefill` a chunk; caches go in and come out."""

from __future__ import annotations

import inspect
import json
import types
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from coreai.authoring import AIProgram, Module, TensorType
from coreai.authoring import Value as CoreAiValue
from coreai.authoring.graph import graph

from edgekit.converters.base import Job
from edgekit.converters.coreai.emitter import Constants, CoreAiEmitter
from edgekit.converters.lower import lower, refuse_other_mixers
from edgekit.converters.rope import reach
from edgekit.converters.static import Store
from edgekit.converters.weights import Json

MODEL = "model.aimodel"
CREATED = "20260101T000000Z"  # two exports of a bundle have the same bytes


def export(job: Job) -> None:
    """Writes model.aimodel and the tokenizer.

    Raises:
        ConvertError: the context is out of reach, or the model has other blocks.
    """
    model = job.weights.model
    refuse_other_mixers(model, job.kind, ("attention",))
    context = reach(model, job.choices.context)
    chunk = min(job.choices.chunk, context)
    store = Store(job.weights, job.choices.precision, job.choices.bits)
    module, constants = Module.create(), Constants()
    with module:
        for name, tokens in (("decode", 1), ("prefill", chunk)):
            _function(store, constants, model, name, tokens, context)
    module.verify()
    AIProgram(module).save_asset(job.folder / MODEL)
    _pin(job.folder / MODEL)
    job.copy_tokenizer("tokenizer")
    job.about |= {"context": context, "chunk": chunk, "precision": job.choices.precision}


def _function(store: Store, constants: Constants, model: Json, name: str, tokens: int, context: int) -> None:
    """ids si32 [1, tokens], position si32 [1], caches -> logits [1, tokens, vocabulary], caches."""
    shapes = {
        f"{which}_{layer}": (1, b["kv_heads"], context, b["head_dim"])
        for layer, b in enumerate(b for b in model["blocks"] if b["kind"] == "attention")
        for which in ("key", "value")
    }

    def typed(shape: tuple[int, ...], kind: Any, label: str | None = None) -> Any:
        return Annotated[CoreAiValue, TensorType(shape, kind, name=label)]

    names = ["ids", "position", *shapes]

    def body(*given: Any) -> tuple[Any, ...]:
        values = dict(zip(names, given, strict=True))
        e = CoreAiEmitter(store, constants, tokens, context, values["position"], values)
        logits = lower(model, e, values["ids"])
        return (logits, *(e.updated[n] for n in shapes))

    inputs = {"ids": typed((1, tokens), np.int32), "position": typed((1,), np.int32)}
    inputs |= {n: typed(shape, store.dtype) for n, shape in shapes.items()}
    outputs = [typed((1, tokens, model["vocab_size"]), store.dtype, "logits")]
    outputs += [typed(shape, store.dtype, f"{n}_out") for n, shape in shapes.items()]
    # The decorator reads a signature, as if somebody had written out all these parameters.
    returned = types.GenericAlias(tuple, tuple(outputs))
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind, annotation=t) for n, t in inputs.items()]
    body.__signature__ = inspect.Signature(parameters, return_annotation=returned)  # type: ignore[attr-defined]
    body.__annotations__ = {**inputs, "return": returned}
    graph(body, provided_name=name)


def _pin(path: Path) -> None:
    """Fixes the time in the metadata."""
    file = path / "metadata.json"
    told = json.loads(file.read_text())
    told["creationDate"] = CREATED
    file.write_text(json.dumps(told, indent=1, sort_keys=True))
