"""Qwen3-Next and Qwen3.5 as mlx_lm has them: what differs from its other models."""

from __future__ import annotations

from edgekit.arch.config import decoder_config
from edgekit.arch.spec import Ffn, LinearAttention, Model
from edgekit.codecs.base import F32
from edgekit.converters.weights import Json
from edgekit.errors import ConvertError

# Our model type -> mlx_lm's.
KINDS = {"qwen3_next": "qwen3_next", "qwen3_5_text": "qwen3_5", "qwen3_5_moe_text": "qwen3_5_moe"}
NORMS = ("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight", "language_model.norm.weight")


def interval(model: Model) -> int:
    """Every how many layers one attends.

    Raises:
        ConvertError: layers do not follow such a rule, which is the only one that mlx_lm knows.
    """
    linear = [isinstance(b, LinearAttention) for b in model.blocks if not isinstance(b, Ffn)]
    every = next((i + 1 for i, b in enumerate(linear) if not b), len(linear) + 1)
    if linear != [(i + 1) % every != 0 for i in range(len(linear))]:
        raise ConvertError("this model's code in mlx_lm wants attention in every n-th layer; export 'mlx-exact'")
    return every


def refuse(model: Model) -> None:
    """Refuses what mlx_lm's code does not compute.

    Raises:
        ConvertError: names it.
    """
    interval(model)
    experts = [b for b in model.blocks if isinstance(b, Ffn) and b.router is not None]
    if any(bundle.up.index is not None for b in experts for bundle in b.bundles):
        raise ConvertError("experts that the checkpoint stacks are not written for mlx_lm; export 'mlx-exact'")


def flat_config(model: Model, config: Json) -> Json:
    """The text decoder's config, with the key that mlx_lm reads the layers' kinds from."""
    return {**decoder_config(config), "full_attention_interval": interval(model)}


def vector(tensor: str, values: F32, model: Model) -> F32:
    """A vector in the form that mlx_lm saves: norms about one, kernels [channels, taps, 1]."""
    if tensor.endswith("conv1d.weight"):
        taps = next(b.taps for b in model.blocks if isinstance(b, LinearAttention))
        return values.reshape(-1, taps, 1)
    return values + 1 if tensor.endswith(NORMS) else values
