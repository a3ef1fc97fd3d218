"""Turns a config and the names in a checkpoint into a `Model`, by the family's description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgekit.arch.attention import AttentionBuilder
from edgekit.arch.config import LIMIT, Config, decoder_config, shown
from edgekit.arch.convolution import ConvolutionBuilder
from edgekit.arch.encoder import EncoderBuilder
from edgekit.arch.families import ENCODERS, FAMILIES, VISION
from edgekit.arch.family import Family
from edgekit.arch.feed_forward import FeedForwardBuilder
from edgekit.arch.linear_attention import LinearAttentionBuilder
from edgekit.arch.spec import Block, Ffn, LayerInput, Mixer, Model
from edgekit.arch.tensors import Shapes, head_tensor
from edgekit.errors import CheckpointError, UnsupportedModelError

# Of any family: config key -> the only values with which edgekit computes what the model means.
REQUIRED_VALUES: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None, {}),
    "per_layer_config": (None, {}),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
}


def known_model_types() -> list[str]:
    """All values of `model_type` of models that write text."""
    return sorted(name for family in FAMILIES for name in family.model_types)


def encoder_model_types() -> list[str]:
    """All values of `model_type` of encoders."""
    return sorted(name for family in ENCODERS for name in family.model_types)


def vision_model_types() -> list[str]:
    """All values of `model_type` of a vision_config."""
    return sorted({family.encoder.model_types[0] for family in VISION})


def find_family(model_type: object) -> Family:
    """The description of a model type.

    Raises:
        UnsupportedModelError: none; the message names the known ones and the file to add.
    """
    for family in (*FAMILIES, *ENCODERS):
        if model_type in family.model_types:
            return family
    file = model_type if isinstance(model_type, str) and model_type.isidentifier() else "NAME"
    known = f"{', '.join(known_model_types())}; encoders: {', '.join(encoder_model_types())}"
    raise UnsupportedModelError(
        f"config.json: model_type {shown(model_type)} is not described yet; known: {known}. "
        f"To add it, describe it in edgekit/arch/families/{file}.py and list it in edgekit/arch/families/__init__.py"
    )


def describe(
    config: Mapping[str, Any],
    shapes: Shapes,
    generation: Mapping[str, Any] | None = None,
    head_differs: bool = False,
    embeds: bool = False,
) -> Model:
    """Describes the model of a checkpoint.

    Args:
        config: config.json.
        shapes: name -> shape of every tensor in the checkpoint.
        generation: generation_config.json, if there is one.
        head_differs: the checkpoint has a head whose values are not the embedding's; it is then not tied to it,
            whatever the config says, as in transformers (`arch.checkpoints` finds out).
        embeds: the checkpoint is made for vectors of texts, so that a decoder needs no head.

    Raises:
        UnsupportedModelError: the model cannot be expressed.
        CheckpointError: a tensor is missing or has another shape than the config says.
    """
    config = decoder_config(config)
    family = find_family(config.get("model_type"))
    for key, allowed in {**REQUIRED_VALUES, **family.required_values}.items():
        if key in family.reads or config.get(key, allowed[0]) in allowed:
            continue
        if key != "quantization_config" or not _undone(config, family):
            raise UnsupportedModelError(
                f"config.json: {key} is {shown(config[key])}, which edgekit does not compute for "
                f"{family.model_types[0]}"
            )
    if family.encoder is not None:
        return EncoderBuilder(Config(config, family), shapes).model(family.encoder)
    return _Builder(Config(config, family), shapes, head_differs, embeds).model(generation or {})


def _undone(config: Mapping[str, Any], family: Family) -> bool:
    """Whether reading the checkpoint undoes its quantization."""
    given = config["quantization_config"]
    method = given.get("quant_method") if isinstance(given, Mapping) else None
    return isinstance(method, str) and method in family.packed


class _Builder(AttentionBuilder, ConvolutionBuilder, LinearAttentionBuilder, FeedForwardBuilder):
    """The whole model."""

    def __init__(self, config: Config, shapes: Shapes, head_differs: bool, embeds: bool) -> None:
        super().__init__(config, shapes)
        self.head_differs, self.embeds = head_differs, embeds
        self.layer_blocks = 0  # of the layer described last

    def _layer(self, i: int) -> list[Block]:
        self.block_of.append(self.block_of[-1] + self.layer_blocks if i else 0)
        own = self.layer_input(i)
        listed: list[Block] = [self._mixer(i), *self.feed_forwards(i), *([own] if own else [])]
        self.layer_blocks = len(listed)
        scale = self.layer_scale(i)
        last = listed[-1]
        if scale is not None and isinstance(last, Ffn | LayerInput):
            listed[-1] = replace(last, out_scale=scale)
        return listed

    def _mixer(self, i: int) -> Mixer:
        kind = self.layer_kind(i)
        if kind == "conv":
            return self.convolution(i)
        return self.linear_attention(i) if kind == "linear_attention" else self.attention(i)

    def model(self, generation: Mapping[str, Any]) -> Model:
        c, f = self.c, self.f
        vocab, context = c.size("vocab"), c.size("context")
        width = c.size("word_embed_proj_dim", self.hidden) if f.project_in else self.hidden
        embedding = self.matrix("embedding", self._name(f.embed), vocab, width)
        projects = self._has(f.project_in)
        blocks: list[Block] = []
        for i in range(self.layers):
            blocks += self._layer(i)
        head_name = head_tensor(f, self.shapes)
        tied = c.flag("tied") and not self.head_differs
        headless = not tied and head_name not in self.shapes
        if headless and not self.embeds:
            raise CheckpointError(
                f"the checkpoint has no tensor '{head_name}', though config.json does not tie it to the embedding; "
                "download it again, or set tie_word_embeddings to true if the model ties them"
            )
        head = embedding if tied else None
        if not tied and not headless:
            head = self.matrix("head", head_name.removesuffix(".weight"), vocab, width)
        position = None
        if f.position:
            rows = context + f.position_offset
            position = self.matrix("position", self._name(f.position), rows, self.hidden)
        eos = generation.get("eos_token_id", c.get("eos_token_id"))
        bos = _token_ids(c.get("bos_token_id"), vocab)
        return Model(
            f.model_types[0],
            vocab,
            self.hidden,
            min(max(context, self.max_context), LIMIT),
            embedding,
            head,
            tuple(blocks),
            tuple(self.ropes),
            math.sqrt(self.hidden) if f.embedding_scaled else c.number("embedding_multiplier", 1.0),
            self.matrix("project_in", self._name(f.project_in), self.hidden, width) if projects else None,
            layer_embedding=self.layer_embedding(vocab),
            position=position,
            position_offset=f.position_offset,
            final_norm=self.norm("final_norm", f.final_norm or ""),
            head_project=self.matrix("project_out", self._name(f.project_out), width, self.hidden)
            if projects
            else None,
            head_softcap=self._softcap("final_logit_softcapping"),
            head_scale=c.positive("logit_scale", 1.0) / c.positive("logits_scaling", 1.0),
            eos_token_ids=_token_ids(eos, vocab),
            bos_token_id=bos[0] if bos else None,
            output="embedding" if headless else "logits",
        )


def _token_ids(value: Any, vocab: int) -> tuple[int, ...]:
    """The ids in `value` (one or a list) that the vocabulary has."""
    listed = value if isinstance(value, list) else [value]
    return tuple(x for x in listed if type(x) is int and 0 <= x < vocab)
