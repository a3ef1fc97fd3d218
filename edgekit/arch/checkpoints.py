"""The description of an opened checkpoint, where values and not only shapes decide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from edgekit.arch.build import describe, find_family
from edgekit.arch.config import decoder_config
from edgekit.arch.overlooked import warnings
from edgekit.arch.spec import Model, Pooling, Vision
from edgekit.arch.tensors import head_tensor
from edgekit.arch.vision import describe_vision
from edgekit.checkpoint import Checkpoint
from edgekit.checkpoint.safetensors import Tensor

STEP = 1 << 22  # elements compared at once


def vision_of(opened: Checkpoint) -> Vision | None:
    """What a checkpoint sees pictures with; None if nothing, or nothing that edgekit knows.

    Raises:
        UnsupportedModelError, CheckpointError: as `describe_checkpoint`.
    """
    return describe_vision(opened.config, {name: t.shape for name, t in opened.tensors.items()}, opened.pictures)


def describe_checkpoint(opened: Checkpoint, vision: Vision | None = None) -> tuple[Model, tuple[str, ...]]:
    """The model of a checkpoint, and warnings, each one line, about what of it is not used; `vision` is used besides.

    A head beside an embedding that the config ties it to is used if its values differ, as in transformers.

    Raises:
        UnsupportedModelError: the model cannot be expressed.
        CheckpointError: a tensor is missing, of another shape than the config says, or cannot be read.
    """
    shapes = {name: t.shape for name, t in opened.tensors.items()}
    embeds = opened.sentence is not None
    model = describe(opened.config, shapes, opened.generation, embeds=embeds)
    lines: tuple[str, ...] = ()
    head = head_tensor(find_family(decoder_config(opened.config).get("model_type")), shapes)
    tied = model.head is model.embedding and head in shapes
    if tied and not same_values(opened.tensor(model.embedding.tensor), opened.tensor(head)):
        model = describe(opened.config, shapes, opened.generation, head_differs=True, embeds=embeds)
        lines = (f"config.json ties the head to the embedding, but '{head}' has other values: it is used as it is",)
    model = replace(model, pooling=_pooling(opened, model))
    return model, lines + warnings(opened.config, shapes, model, vision)


def _pooling(opened: Checkpoint, model: Model) -> Pooling | None:
    """How vectors are made: as the folder says, else as the family does; None of decoders made for text alone."""
    found, sentence = model.pooling, opened.sentence
    limit = opened.tokenizer_limit()
    longest = min(model.max_context, limit) if limit is not None else model.max_context
    if found is not None and (sentence is None or model.output == "score"):
        longest = min(longest, sentence.max_length or longest) if sentence is not None else longest
        return replace(found, max_length=longest)
    if sentence is None:
        return None
    return Pooling(
        cast(Any, sentence.pooling or "mean"),
        sentence.normalize,
        min(sentence.max_length or longest, model.max_context),
        tuple(sentence.prompts.items()),
        sentence.default_prompt,
        sentence.lowercase,
    )


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits in the same shape and dtype."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    rows = max(1, STEP // max(1, a.row_items))
    for begin in range(0, a.shape[0], rows):
        end = min(begin + rows, a.shape[0])
        if not np.array_equal(a.read(begin, end).view(np.uint8), b.read(begin, end).view(np.uint8)):
            return False
    return True
