"""Finding a family's tensors in a checkpoint, and positions in a config: the base of `arch.build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.arch.config import Config
from edgekit.arch.family import Family
from edgekit.arch.rope import frequencies
from edgekit.arch.spec import Matrix, Norm, Ranges, Rope, Vector
from edgekit.errors import CheckpointError, UnsupportedModelError

Shapes = Mapping[str, tuple[int, ...]]
# Names of kinds of layers in older configs.
OLDER_KINDS = {"attention": "full_attention", "mamba": "linear_attention"}


def head_tensor(family: Family, shapes: Shapes) -> str:
    """Name of the output head's weight in a checkpoint; multimodal ones may nest it."""
    name = f"{family.head}.weight"
    nested = f"language_model.{name}"
    return nested if nested in shapes and name not in shapes else name


class Tensors:
    """Matrices, vectors, norms and ropes of one checkpoint, each checked against its shape."""

    def __init__(self, config: Config, shapes: Shapes) -> None:
        self.c, self.f, self.shapes = config, config.family, shapes
        self.hidden = config.size("hidden")
        self.prefix = self._prefix()
        self.layers = config.size("layers")
        if self.layers > len(shapes):
            raise CheckpointError(
                f"config.json: {config.name('layers')} is {self.layers}, but the checkpoint has {len(shapes)} tensors"
            )
        self.block_of: list[int] = []  # of each layer described so far, its first block
        self.ropes: list[Rope] = []
        self.rope_index: dict[str, int] = {}
        self.max_context = 0  # what the ropes reach; grows as they are made

    # --- names -------------------------------------------------------------------------------

    def _prefix(self) -> str:
        for prefix in self.f.prefixes:
            if f"{prefix}{self.f.embed}.weight" in self.shapes:
                return prefix
        raise CheckpointError(
            f"the checkpoint has no tensor '{self.f.prefixes[0]}{self.f.embed}.weight'; "
            f"is its config.json (model_type {self.f.model_types[0]}) from another model?"
        )

    def _name(self, template: str, i: int = 0, e: int = 0) -> str:
        return self.prefix + template.format(i=i, e=e)

    def _has(self, template: str, i: int = 0, suffix: str = ".weight") -> bool:
        return bool(template) and self._name(template, i) + suffix in self.shapes

    # --- tensors -----------------------------------------------------------------------------

    def matrix(self, name: str, tensor: str, rows: int, cols: int, ranges: Ranges = (), whole: int = 0) -> Matrix:
        """A matrix of the checkpoint; `whole` is the fused tensor's rows when `ranges` are a part of them."""
        conv1d = self.f.conv1d and (".attn." in tensor or ".mlp." in tensor)
        stored = (cols, whole or rows) if conv1d else (whole or rows, cols)
        self._check(tensor + ".weight", stored)
        return Matrix(name, tensor + ".weight", rows, cols, ranges, conv1d)

    def vector(self, name: str, tensor: str, count: int) -> Vector:
        """A vector of the checkpoint, whose tensor's name is whole."""
        self._check(tensor, (count,))
        return Vector(name, count, tensor)

    def stacked(
        self, name: str, tensor: str, index: int, count: int, rows: int, cols: int, ranges: Ranges = (), whole: int = 0
    ) -> Matrix:
        """Matrix `index` of the `count` that a tensor stacks; `ranges` and `whole` as for `matrix`."""
        self._check(tensor, (count, whole or rows, cols))
        return Matrix(name, tensor, rows, cols, ranges, index=index)

    def bias(
        self, name: str, tensor: str, count: int, ranges: Ranges = (), whole: int = 0, rule: str = ""
    ) -> Vector | None:
        """A bias, if the model has it: `rule` is "always", the config key that says so, or "" for never.

        One that is in the checkpoint all the same is not used, as in transformers.
        """
        key = tensor + ".bias"
        if not (rule == "always" or (rule and self.c.flag(rule))):
            return None
        self._check(key, (whole or count,))
        return Vector(name, count, key, ranges)

    def _check(self, tensor: str, shape: tuple[int, ...]) -> None:
        found = self.shapes.get(tensor)
        if found is None:
            raise CheckpointError(f"the checkpoint has no tensor '{tensor}' of shape {list(shape)}")
        if tuple(found) != shape:
            raise CheckpointError(f"tensor '{tensor}' has shape {list(found)}, but config.json implies {list(shape)}")

    def norm(self, name: str, template: str, i: int = 0, count: int = 0, per_head: bool = False) -> Norm | None:
        switch = self.f.optional_norms.get(template)
        if not template or (switch and not self.c.flag(switch)):
            return None
        tensor, count = self._name(template, i), count or self.hidden
        self._check(tensor + ".weight", (count,))
        weight = Vector(name, count, tensor + ".weight", add=self.f.norm_add)
        has_bias = self.f.norm == "layer" and self.f.norm_bias
        bias = self.bias(name + "_bias", tensor, count, rule="always") if has_bias else None
        return Norm(self.f.norm, self.f.eps or self.c.positive("eps"), weight, bias, per_head)

    def norm_places(self, name: str, template: str, post: str, i: int) -> tuple[Norm | None, Norm | None, Norm | None]:
        norm = self.norm(name + "norm", template, i)
        after = self.norm(name + "post_norm", post, i)
        order = self.f.norm_order
        if order == "post" or (order == "config" and not self.c.flag("do_layer_norm_before")):
            return None, after, norm
        return norm, after, None

    # --- positions ---------------------------------------------------------------------------

    def _rope_params(self, kind: str) -> dict[str, Any]:
        """Rope parameters for layers of a kind, from any age of config.json, merged as transformers does."""
        c = self.c
        given, scaling = c.get("rope_parameters"), c.get("rope_scaling")
        local = kind == "sliding_attention" and "rope_local_base_freq" in self.f.reads
        by_kind = self.f.rope_by_kind or local or (isinstance(given, dict) and kind in given)
        scales = not (self.f.rope_by_kind and kind == "sliding_attention")
        for key, value in (("rope_parameters", given), ("rope_scaling", scaling)):
            if value is not None and not isinstance(value, dict):
                raise c.bad(key, value, "an object")
        if by_kind:
            found = (given or {}).get(kind)
            if found is not None and not isinstance(found, dict):
                raise c.bad("rope_parameters", given, "an object with one object per kind of layer")
            params = {**(found or {}), **(scaling or {} if scales else {})}
        else:
            params = dict(scaling or given or {})
        for key in ("rope_type", "type"):
            if isinstance(params.get(key), str):
                params[key] = self.f.rope_aliases.get(params[key], params[key])
        base = "rope_local_base_freq" if local else "rope_theta"
        if params.get("rope_theta", self) is self:
            params["rope_theta"] = c.number(base)
        # Phi-3 keeps the original length outside, and that one counts; others have it in the parameters or not at all.
        if "original_max_position_embeddings" in self.f.reads:
            params["original_max_position_embeddings"] = c.size("original_max_position_embeddings")
        return params

    def rope(self, kind: str, head_dim: int) -> int:
        """Index of the rope for layers of a kind; layers that rotate alike share one."""
        params = self._rope_params(kind)
        key = repr((sorted(params.items(), key=str), head_dim))
        if key not in self.rope_index:
            dim = int(head_dim * self._partial_rotary(params)) // 2 * 2
            made = frequencies(params, dim, self.c.size("context"))
            n = len(self.ropes)

            def vector(name: str, values: Any) -> Vector:
                return Vector(name, dim // 2, values=tuple(float(x) for x in values))

            long = made.long_inv_freq
            self.ropes.append(
                Rope(
                    dim,
                    vector(f"ropes.{n}.inv_freq", made.inv_freq),
                    made.scale,
                    None if long is None else vector(f"ropes.{n}.long_inv_freq", long),
                    made.dynamic,
                    made.switch_length,
                )
            )
            self.rope_index[key] = n
            self.max_context = max(self.max_context, made.max_context)
        return self.rope_index[key]

    def _partial_rotary(self, params: Mapping[str, Any]) -> float:
        if not self.f.partial_rotary:
            return 1.0
        value = params.get("partial_rotary_factor", self.c.get("partial_rotary"))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise self.c.bad("partial_rotary_factor", value, "a share of a head")
        return float(value)

    def layer_kind(self, i: int) -> str:
        """ "sliding_attention", "full_attention" or another of the family's kinds, by its rule."""
        c, rule = self.c, self.f.windows
        sliding = False
        if rule == "full_attn_idxs":
            return self._full_attention_listed(i)
        if rule == "all":
            sliding = self._windowed()
        elif rule == "attention_types":
            sliding = self._attention_types()[i] == "local"
        elif rule != "none":
            listed = c.get("layer_types")
            if listed is not None:
                return self._listed_kind(listed, i)
            if rule == "linear_interval":
                return "linear_attention" if (i + 1) % c.size("full_attention_interval", 4) else "full_attention"
            sliding = self._unlisted(rule, i)
        return "sliding_attention" if sliding else "full_attention"

    def _full_attention_listed(self, i: int) -> str:
        """The kind of an LFM2 layer."""
        listed, full = self.c.get("layer_types"), self.c.get("full_attn_idxs")
        if listed is not None:
            return self._listed_kind(listed, i)
        if full is not None and (not isinstance(full, list) or not all(type(x) is int for x in full)):
            raise self.c.bad("full_attn_idxs", full, "a list of layers")
        return "full_attention" if full is None or i in full else "conv"

    def _unlisted(self, rule: str, i: int) -> bool:
        """Whether a layer has a window where the config does not list the kinds of layers."""
        c = self.c
        if rule == "no_rope":
            return self._windowed() and not self.rotates(i, "")
        if "sliding_window_pattern" in self.f.reads or self.f.window_pattern:
            return (i + 1) % c.size("sliding_window_pattern", self.f.window_pattern or None) != 0
        if "max_window_layers" not in self.f.reads:
            raise c.bad("layer_types", None, "a list with one kind per layer")
        first = c.checked("max_window_layers", c.get("max_window_layers"), 0)
        inside = i < first and i % 2 == 0 if rule == "alternating" else i >= first
        return self._windowed() and inside

    def rotates(self, i: int, kind: str) -> bool:
        """Whether a layer, of this kind, has a rotary embedding."""
        c, rule = self.c, self.f.no_rope
        if rule == "full_attention":
            return kind != "full_attention"
        if rule == "position_embedding_type":
            return bool(c.get("position_embedding_type") == "rope")
        if rule != "no_rope_layers":
            return self.f.rope
        listed = c.get("no_rope_layers")
        if listed is None:
            return (i + 1) % c.size("no_rope_layer_interval") != 0
        if not isinstance(listed, list) or len(listed) < self.layers or listed[i] not in (0, 1):
            raise c.bad("no_rope_layers", listed, "a list with 0 or 1 for each layer")
        return bool(listed[i])

    def _windowed(self) -> bool:
        """Whether the config has a window in force."""
        switched = "use_sliding_window" not in self.f.reads or self.c.flag("use_sliding_window")
        return switched and self.c.get("window") is not None

    def _listed_kind(self, listed: Any, i: int) -> str:
        if not isinstance(listed, list) or len(listed) != self.layers:
            raise self.c.bad("layer_types", listed, "a list with one kind per layer")
        kind = OLDER_KINDS.get(listed[i], listed[i]) if isinstance(listed[i], str) else listed[i]
        if not isinstance(kind, str) or kind not in self.f.kinds:
            raise self.c.bad("layer_types", kind, " or ".join(sorted(map(repr, self.f.kinds))))
        if kind == "sliding_attention" and not self._windowed():
            raise UnsupportedModelError(
                "config.json: layer_types has sliding layers, but no sliding_window is in force"
            )
        return str(kind)

    def _attention_types(self) -> list[str]:
        """GPT-Neo's kind of each layer; lists are given as [[kinds, times], ...]."""
        layers = self.layers
        listed = self.c.get("attention_layers")
        if listed is None:
            listed = []
            given = self.c.get("attention_types")
            for entry in given if isinstance(given, list) else [given]:
                if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], list) or not entry[0]:
                    raise self.c.bad("attention_types", given, "a list of [kinds, times]")
                times = self.c.checked("attention_types", entry[1])
                while times and len(listed) <= layers:  # a hostile count must not become a long list
                    listed, times = listed + entry[0], times - 1
        if not isinstance(listed, list) or not all(kind in ("global", "local") for kind in listed):
            raise self.c.bad("attention_layers", listed, "a list of 'global' and 'local'")
        if len(listed) != layers:
            raise UnsupportedModelError(
                f"config.json: attention_types is for {len(listed)} layers, but there are {layers}"
            )
        return listed
