"""The part of a checkpoint that sees: an encoder of pictures, and how pictures are prepared for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.arch.attention import AttentionBuilder
from edgekit.arch.config import LIMIT, Config, decoder_config, shown
from edgekit.arch.families import VISION
from edgekit.arch.family import VisionFamily
from edgekit.arch.feed_forward import FeedForwardBuilder
from edgekit.arch.spec import Block, Matrix, Merge, Model, Pictures, Vision
from edgekit.arch.tensors import Shapes
from edgekit.errors import CheckpointError, UnsupportedModelError


def vision_family(config: Mapping[str, Any]) -> VisionFamily | None:
    """What a config.json's model sees with; None if edgekit does not know it, or it sees nothing."""
    kind = config.get("model_type")
    if not isinstance(config.get("vision_config"), dict):
        return None
    return next((family for family in VISION if kind in family.model_types), None)


def describe_vision(config: Mapping[str, Any], shapes: Shapes, settings: Mapping[str, Any]) -> Vision | None:
    """What a checkpoint sees with; None if edgekit does not know it, or its tensors are not there.

    Args:
        config: config.json.
        shapes: name -> shape of every tensor in the checkpoint.
        settings: preprocessor_config.json.

    Raises:
        UnsupportedModelError: it cannot be expressed.
        CheckpointError: a tensor is missing or has another shape than the config says.
    """
    family = vision_family(config)
    if family is None or not any(n.startswith(p) for n in shapes for p in family.encoder.prefixes if p):
        return None
    if not settings:
        raise CheckpointError(
            "the checkpoint has no preprocessor_config.json, which says how pictures are prepared; download it again, "
            "or convert the text decoder alone (--text-only)"
        )
    return _VisionBuilder(config, family, shapes).vision(settings)


def check_sight(vision: Vision, model: Model) -> None:
    """Refuses an encoder whose rows or token the decoder does not take.

    Raises:
        UnsupportedModelError: they do not fit.
    """
    head = vision.encoder.head
    if head is None or head.rows != model.hidden_size or vision.pictures.token >= model.vocab_size:
        raise UnsupportedModelError("config.json: the projector of pictures does not fit the text decoder")


class _VisionBuilder(AttentionBuilder, FeedForwardBuilder):
    """Encoder and preparation."""

    def __init__(self, config: Mapping[str, Any], family: VisionFamily, shapes: Shapes) -> None:
        self.whole, self.family = config, family
        super().__init__(Config(config["vision_config"], family.encoder), shapes)

    def vision(self, settings: Mapping[str, Any]) -> Vision:
        """All of it."""
        c = self.c
        patch, image = c.size("patch_size"), c.size("image_size")
        grid, merge = image // patch, self._merge()
        if grid < 1 or grid % merge:
            raise UnsupportedModelError(
                f"config.json: pictures of {grid} by {grid} patches are not made of squares of {merge}"
            )
        rows = (grid // merge) ** 2
        kept = tuple((key, settings[key]) for key in self.family.settings if settings.get(key) is not None)
        pictures = Pictures(
            self.family.kind, self._token(), rows, self.family.both_ways, patch, merge, grid, _checked(kept)
        )
        return Vision(self._encoder(patch, grid, merge), pictures)

    def _encoder(self, patch: int, grid: int, merge: int) -> Model:
        f, hidden = self.f, self.hidden
        blocks: list[Block] = []
        for i in range(self.layers):
            blocks += [self.attention(i), *self.feed_forwards(i)]
        return Model(
            f.model_types[0],
            0,
            hidden,
            self.c.checked("image_size", grid * grid),
            self._patches(patch),
            self._projector(merge * merge),
            tuple(blocks),
            position=self.matrix("position", self._name(f.position), grid * grid, hidden),
            final_norm=self.norm("final_norm", f.final_norm or ""),
            output="image",
            embedding_bias=self.bias("embedding_bias", self._name(f.embed), hidden, rule="always"),
            merge=Merge(merge * merge),
        )

    def _patches(self, patch: int) -> Matrix:
        """The embedding of patches: a convolution whose steps are as long as its kernel."""
        tensor = self._name(self.f.embed) + ".weight"
        channels = self.c.size("num_channels")
        if channels != 3:
            raise UnsupportedModelError(f"config.json: pictures of {channels} channels are none that edgekit reads")
        self._check(tensor, (self.hidden, channels, patch, patch))
        return Matrix("embedding", tensor, self.hidden, channels * patch * patch)

    def _projector(self, patches: int) -> Matrix:
        width = Config(decoder_config(self.whole), self.f).checked("hidden", self._text("hidden_size"))
        found = next((n for n in self.family.project if n + ".weight" in self.shapes), self.family.project[0])
        return self.matrix("head", found, width, self.hidden * patches)

    def _text(self, key: str) -> Any:
        return decoder_config(self.whole).get(key)

    def _merge(self) -> int:
        value = self.whole.get(self.family.merge, 2)
        return self.c.checked(self.family.merge, value)

    def _token(self) -> int:
        found = next((self.whole[key] for key in self.family.token if key in self.whole), None)
        if type(found) is not int or not 0 <= found < LIMIT:
            raise UnsupportedModelError(
                f"config.json: {self.family.token[0]} is {shown(found)}, which is no token of the vocabulary"
            )
        return found


def _checked(settings: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Plain values alone, so that nothing else comes into a manifest."""
    for key, value in settings:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if len(str(value)) > 400 or not all(isinstance(x, bool | int | float) and abs(x) < 1e6 for x in inner):
            raise UnsupportedModelError(f"preprocessor_config.json: {key} is {shown(value)}, which edgekit cannot read")
    return settings
