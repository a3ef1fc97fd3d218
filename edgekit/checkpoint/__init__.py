"""Checkpoints: local folders and hub ids, read lazily and never trusted."""

from edgekit.checkpoint.hub import Source, locate
from edgekit.checkpoint.reader import Checkpoint, open_checkpoint, read_json, tokenizer_files
from edgekit.checkpoint.safetensors import Tensor, to_f32

__all__ = ["Checkpoint", "Source", "Tensor", "locate", "open_checkpoint", "read_json", "to_f32", "tokenizer_files"]
