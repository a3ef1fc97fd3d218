"""The description of an opened checkpoint, where values and not only shapes decide."""

from __future__ import annotations

import numpy as np

from edgekit.arch.build import describe, find_family
from edgekit.arch.config import decoder_config
from edgekit.arch.overlooked import warnings
from edgekit.arch.spec import Model
from edgekit.arch.tensors import head_tensor
from edgekit.checkpoint import Checkpoint
from edgekit.checkpoint.safetensors import Tensor

STEP = 1 << 22  # elements compared at once


def describe_checkpoint(opened: Checkpoint) -> tuple[Model, tuple[str, ...]]:
    """The model of a checkpoint, and warnings, each one line, about what of it is not used.

    A head beside an embedding that the config ties it to is used if its values differ, as in transformers.

    Raises:
        UnsupportedModelError: the model cannot be expressed.
        CheckpointError: a tensor is missing, of another shape than the config says, or cannot be read.
    """
    shapes = {name: t.shape for name, t in opened.tensors.items()}
    model = describe(opened.config, shapes, opened.generation)
    lines: tuple[str, ...] = ()
    head = head_tensor(find_family(decoder_config(opened.config).get("model_type")), shapes)
    tied = model.head is model.embedding and head in shapes
    if tied and not same_values(opened.tensor(model.embedding.tensor), opened.tensor(head)):
        model = describe(opened.config, shapes, opened.generation, head_differs=True)
        lines = (f"config.json ties the head to the embedding, but '{head}' has other values: it is used as it is",)
    return model, lines + warnings(opened.config, shapes, model)


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
