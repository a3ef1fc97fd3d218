"""The part of a checkpoint that sees: an encoder of pictures, and how pictures are prepared for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekit.arch.attention import AttentionBuilder
from edgekit.arch.config import LIMIT, Config, decoder_config, shown
from edgekit.arch.families import VISION
from edgekit.arch.family import VisionFamily
from edgekit.arch.feed_forward import FeedForwardBuilder
from edgekit.arch.spec import Block, Matrix, Merge, Model, Norm, Pictures, Vector, Vision
from edgekit.arch.tensors import Shapes
from edgekit.errors import UnsupportedModelError


def vision_family(config: Mapping[str, Any]) -> VisionFamily | None:
    """What a config.json's model sees with; None if edgekit does not know it, or it sees nothing."""
    kind = config.get("model_type")
    if not isinstance(config.get("vision_config"), dict):
        return None
    return next((family for family in VISION if kind in family.model_types), None)


def describe_vision(config: Mapping[str, Any], shapes: Shapes, settings: Mapping[str, Any]) -> Vision | None:
    """What a checkpoint sees with; None if edgekit does not know it, or its tensors or settings are not there.

    Args:
        config: config.json.
        shapes: name -> shape of every tensor in the checkpoint.
        settings: preprocessor_config.json; empty if there is none, as in many checkpoints tuned for text alone.

    Raises:
        UnsupportedModelError: it cannot be expressed.
        CheckpointError: a tensor is missing or has another shape than the config says.
    """
    family = vision_family(config)
    if family is None or not any(n.startswith(p) for n in shapes for p in family.encoder.prefixes if p):
        return None
    if not settings:
        return None
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
        patch = c.size("patch_size")
        grid = math.isqrt(c.size(self.family.patches)) if self.family.patches else c.size("image_size") // patch
        merge = self._merge(grid)
        if grid < 1 or grid % merge:
            raise UnsupportedModelError(
                f"config.json: pictures of {grid} by {grid} patches are not made of squares of {merge}"
            )
        rows = (grid // merge) ** 2
        kept = tuple((key, settings[key]) for key in self.family.settings if settings.get(key) is not None)
        pictures = Pictures(
            self.family.kind,
            self._token(),
            rows,
            self.family.both_ways,
            patch,
            merge,
            grid,
            _checked(kept),
            tuple(self._id(key, self.whole.get(key, otherwise)) for key, otherwise in self.family.marks),
            self.family.linear,
            bool(self.family.patches),
        )
        most = c.checked("image_size", grid * grid)
        if self.family.patches:  # as many as the settings allow a tile to have
            tile, rows = (settings.get(k, d) for k, d in (("tile_size", 512), ("max_image_tokens", 256)))
            side = c.checked("tile_size", tile) // patch
            most = c.checked("max_image_tokens", max(side * side, c.checked("max_image_tokens", rows) * merge * merge))
        return Vision(self._encoder(patch, grid, merge, most), pictures)

    def _encoder(self, patch: int, grid: int, merge: int, most: int) -> Model:
        f, hidden = self.f, self.hidden
        blocks: list[Block] = []
        for i in range(self.layers):
            blocks += [self.attention(i), *self.feed_forwards(i)]
        return Model(
            f.model_types[0],
            0,
            hidden,
            most,
            self._patches(patch),
            self._projector(merge * merge),
            tuple(blocks),
            position=self.matrix("position", self._name(f.position), grid * grid, hidden),
            final_norm=self.norm("final_norm", f.final_norm or ""),
            output="image",
            **self._project_in(merge * merge),
            embedding_bias=self.bias("embedding_bias", self._name(f.embed), hidden, rule="always"),
            merge=Merge(merge * merge, self.family.mean, self._merged_norm()),
        )

    def _patches(self, patch: int) -> Matrix:
        """The embedding of patches: a convolution whose steps are as long as its kernel."""
        tensor = self._name(self.f.embed) + ".weight"
        channels = self.c.size("num_channels")
        if channels != 3:
            raise UnsupportedModelError(f"config.json: pictures of {channels} channels are none that edgekit reads")
        values = channels * patch * patch
        self._check(tensor, (self.hidden, values) if self.family.linear else (self.hidden, channels, patch, patch))
        return Matrix("embedding", tensor, self.hidden, channels * patch * patch)

    def _projector(self, patches: int) -> Matrix:
        width = Config(decoder_config(self.whole), self.f).checked("hidden", self._text("hidden_size"))
        inputs = self.hidden if self.family.mean else self.hidden * patches
        if self.family.project_in:
            inputs = self._inner()
        if not self.family.project_turned:
            return self.matrix("head", self._whole(self.family.project, ".weight"), width, inputs)
        tensor = self._whole(self.family.project)
        self._check(tensor, (inputs, width))
        return Matrix("head", tensor, width, inputs, transposed=True)

    def _inner(self) -> int:
        key, otherwise = self.family.project_size
        return self.c.checked(key, self.whole.get(key, otherwise))

    def _project_in(self, patches: int) -> dict[str, Any]:
        """The first of two matrices of the projector, what follows it, and the bias of the second."""
        f = self.family
        if not f.project_in:
            return {}
        key, otherwise = f.project_activation
        activation = self.whole.get(key, otherwise)
        if activation not in ("gelu", "relu"):
            raise UnsupportedModelError(f"config.json: {key} is {shown(activation)}; edgekit computes gelu and relu")
        name, last = self._whole(f.project_in, ".weight"), self._whole(f.project, ".weight")
        rule = "always" if self._flag("projector_bias") else ""
        return {
            "head_project": self.matrix("head_project", name, self._inner(), self.hidden * patches),
            "head_project_bias": self.bias("head_project_bias", name, self._inner(), rule=rule),
            "head_activation": activation,
            "head_bias": self.bias("head_bias", last, self.c.checked("hidden", self._text("hidden_size")), rule=rule),
        }

    def _flag(self, key: str) -> bool:
        value = self.whole.get(key, True)
        if not isinstance(value, bool):
            raise UnsupportedModelError(f"config.json: {key} is {shown(value)}, which is not true or false")
        return value

    def _merged_norm(self) -> Norm | None:
        f = self.family
        if not f.norm or (f.norm_kind == "layer" and not self._flag("projector_use_layernorm")):
            return None
        tensor = self._whole(f.norm, ".weight")
        if f.norm_kind == "rms":
            self._check(tensor + ".weight", (self.hidden,))
            weight = Vector("merged_norm", self.hidden, tensor + ".weight", add=1.0)
            return Norm("rms", self.c.positive("eps"), weight)
        width = self.hidden * self._merge(0) ** 2
        self._check(tensor + ".weight", (width,))
        bias = self.bias("merged_norm_bias", tensor, width, rule="always")
        return Norm("layer", 1e-5, Vector("merged_norm", width, tensor + ".weight"), bias)

    def _whole(self, names: tuple[str, ...], suffix: str = "") -> str:
        """The first of some whole names that the checkpoint has; the first of all if it has none."""
        return next((n for n in names if n + suffix in self.shapes), names[0])

    def _text(self, key: str) -> Any:
        return decoder_config(self.whole).get(key)

    def _merge(self, grid: int) -> int:
        """The side of the square of patches that becomes one row."""
        key = self.family.merge
        value = self.c.checked(key, self.whole.get(key, self.family.merge_default))
        if not self.family.rows:
            return value
        side = math.isqrt(value)
        if side * side != value or side > grid:
            raise UnsupportedModelError(f"config.json: {key} is {value}, which is no square of {grid} or less")
        return grid // side

    def _token(self) -> int:
        found = next((self.whole[key] for key in self.family.token if key in self.whole), None)
        return self._id(self.family.token[0], found)

    def _id(self, key: str, value: Any) -> int:
        if type(value) is not int or not 0 <= value < LIMIT:
            raise UnsupportedModelError(f"config.json: {key} is {shown(value)}, which is no token of the vocabulary")
        return value


def _checked(settings: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """Plain values alone, so that nothing else comes into a manifest."""
    for key, value in settings:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if len(str(value)) > 400 or not all(isinstance(x, bool | int | float) and abs(x) < 1e6 for x in inner):
            raise UnsupportedModelError(f"preprocessor_config.json: {key} is {shown(value)}, which edgekit cannot read")
    return settings
