"""Architectures as data: `describe` gives the `Model` of a checkpoint."""

from edgekit.arch.build import describe, encoder_model_types, find_family, known_model_types, vision_model_types
from edgekit.arch.spec import Attention, Block, Ffn, Matrix, Model, Norm, Rope, Vector

__all__ = [
    "Attention",
    "Block",
    "Ffn",
    "Matrix",
    "Model",
    "Norm",
    "Rope",
    "Vector",
    "describe",
    "encoder_model_types",
    "find_family",
    "known_model_types",
    "vision_model_types",
]
