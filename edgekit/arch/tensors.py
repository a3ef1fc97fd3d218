"""Finding a family's tensors in a checkpoint, and positions in a config: the base of `arch.build`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.arch.config import LIMIT, Config
from edgekit.arch.rope import frequencies
from edgekit.arch.spec import Matrix, Norm, Ranges, Rope, Vector
from edgekit.errors import CheckpointError, UnsupportedModelError

Shapes = Mapping[str, tuple[int, ...]]


class Tensors:
    """Matrices, vectors, norms and ropes of one checkpoint, each checked against its shape."""

    def __init__(self, config: Config, shapes: Shapes) -> None:
        self.c, self.f, self.shapes = config, config.family, shapes
        self.hidden = config.size("hidden")
        self.prefix = self._prefix()
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
        """A matrix of the checkpoint; `whole` is the fused tensor's rows when `ranges` is given."""
        conv1d = self.f.conv1d and (".attn." in tensor or ".mlp." in tensor)
        stored = (cols, whole or rows) if conv1d else (whole or rows, cols)
        self._check(tensor + ".weight", stored)
        return Matrix(name, tensor + ".weight", rows, cols, ranges, conv1d)

    def bias(
        self, name: str, tensor: str, count: int, ranges: Ranges = (), whole: int = 0, rule: str = ""
    ) -> Vector | None:
        """A bias; `rule` "always", or the config key that says that the model has it, makes it required."""
        key = tensor + ".bias"
        if key not in self.shapes and not (rule == "always" or (rule and self.c.get(rule))):
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
        if not template or (switch and not self.c.get(switch) and not self._has(template, i)):
            return None
        tensor, count = self._name(template, i), count or self.hidden
        self._check(tensor + ".weight", (count,))
        weight = Vector(name, count, tensor + ".weight", add=self.f.norm_add)
        bias = self.bias(name + "_bias", tensor, count, rule="always") if self.f.norm == "layer" else None
        return Norm(self.f.norm, self.c.number("eps", 1e-5), weight, bias, per_head)

    # --- positions ---------------------------------------------------------------------------

    def _rope_params(self, kind: str) -> dict[str, Any]:
        params = self.c.raw.get("rope_parameters")
        params = dict(params) if isinstance(params, dict) else {}
        if isinstance(params.get(kind), dict):
            params = dict(params[kind])
        elif "full_attention" not in params:
            scaling = self.c.raw.get("rope_scaling")
            local = kind == "sliding_attention" and self.c.get("rope_local_base_freq") is not None
            if isinstance(scaling, dict) and not local:
                params = {**scaling, **params}
            base = self.c.number("rope_local_base_freq" if local else "rope_theta", 10000.0)
            params.setdefault("rope_theta", base)
        original = self.c.get("original_max_position_embeddings")
        if original is not None:
            params.setdefault("original_max_position_embeddings", original)
        params.setdefault("rope_theta", 10000.0)
        return params

    def rope(self, kind: str, head_dim: int) -> int | None:
        """Index of the rope for layers of a kind; layers that rotate alike share one."""
        if not self.f.rope:
            return None
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
        value = params.get("partial_rotary_factor", self.c.get("partial_rotary", 1.0))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise UnsupportedModelError(f"config.json: partial_rotary_factor is {value!r}, not a share of a head")
        return float(value)

    def layer_kind(self, i: int) -> str:
        """ "sliding_attention" or "full_attention", by the family's rule."""
        c, rule = self.c, self.f.windows
        sliding = False
        if rule == "all":
            sliding = bool(c.get("window")) and bool(c.get("use_sliding_window", True))
        elif rule == "attention_types":
            sliding = self._attention_types()[i] == "local"
        elif rule == "layer_types":
            listed = c.raw.get("layer_types")
            pattern = c.get("sliding_window_pattern")
            if isinstance(listed, list):
                if i >= len(listed):
                    raise UnsupportedModelError("config.json: layer_types has fewer entries than layers")
                sliding = listed[i] == "sliding_attention"
            elif pattern:
                sliding = (i + 1) % int(pattern) != 0
            else:
                sliding = bool(c.get("use_sliding_window")) and i >= int(c.get("max_window_layers", 0))
        return "sliding_attention" if sliding else "full_attention"

    def _attention_types(self) -> list[str]:
        listed = self.c.raw.get("attention_layers")
        if not isinstance(listed, list):
            listed = [
                kind
                for kinds, times in self.c.get("attention_types")
                for _ in range(min(int(times), LIMIT))
                for kind in kinds
            ]
        if len(listed) < self.c.size("layers"):
            raise UnsupportedModelError("config.json: attention_types has fewer entries than layers")
        return listed
