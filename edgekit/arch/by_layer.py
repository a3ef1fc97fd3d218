"""What Gemma 4's layers have of their own: sizes of heads, shared keys and values, embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from edgekit.arch.config import Config
from edgekit.arch.family import Family
from edgekit.arch.spec import Activation, LayerEmbedding, LayerInput, Norm, Vector
from edgekit.arch.tensors import Tensors
from edgekit.errors import UnsupportedModelError


def _overrides(c: Config, i: int) -> Mapping[str, Any]:
    """per_layer_config of a layer; sizes are checked where they are used."""
    given = c.get("per_layer_config")
    if given is None:
        return {}
    own = given.get(str(i), {}) if isinstance(given, dict) else None
    if not isinstance(own, dict) or not own.keys() <= {"head_dim", "num_key_value_heads"}:
        raise c.bad("per_layer_config", given, "an object of objects with head_dim and num_key_value_heads")
    return own


class LayerBuilder(Tensors):
    """Sizes and blocks that layers have of their own."""

    def head_sizes(self, i: int, head_dim: int, kv_heads: int) -> tuple[int, int]:
        """Size of heads, and key-value heads, of a layer."""
        c = self.c
        if c.get("per_layer_config") is not None:
            own = _overrides(c, i)
            head_dim = c.checked("head_dim", own.get("head_dim", head_dim))
            return head_dim, c.checked("kv_heads", own.get("num_key_value_heads", kv_heads))
        if self.layer_kind(i) != "full_attention":
            return head_dim, kv_heads
        wide = c.get("num_global_key_value_heads") if c.flag("attention_k_eq_v") else None
        return c.size("global_head_dim", 512), c.checked("num_global_key_value_heads", wide or kv_heads)

    def kv_shared(self, i: int) -> bool:
        """Whether a layer has no keys and values of its own."""
        shared = self.c.checked("num_kv_shared_layers", self.c.get("num_kv_shared_layers", 0), 0)
        return self.f.shared_kv and i >= self.layers - shared

    def kv_source(self, i: int) -> int | None:
        """The layer whose keys and values a layer reads, or None if they are its own."""
        if not self.kv_shared(i):
            return None
        kind = self.layer_kind(i)
        own = [j for j in range(i) if not self.kv_shared(j) and self.layer_kind(j) == kind]
        if not own:
            raise UnsupportedModelError(
                f"config.json: num_kv_shared_layers leaves layer {i} no layer of its kind with keys and values to read"
            )
        return own[-1]

    @property
    def layer_dim(self) -> int:
        """Values of a layer's own embedding; 0 if there is none."""
        if not self.f.layer_table:
            return 0
        return self.c.checked("hidden_size_per_layer_input", self.c.get("hidden_size_per_layer_input", 0), 0)

    def layer_embedding(self, vocab: int) -> LayerEmbedding | None:
        """The embeddings of all layers."""
        c, f, d = self.c, self.f, self.layer_dim
        if not d:
            return None
        count, width = self.layers, self.layers * d
        if c.size("vocab_size_per_layer_input") != vocab:
            raise c.bad("vocab_size_per_layer_input", c.get("vocab_size_per_layer_input"), f"the vocab_size {vocab}")
        norm = Norm(
            "rms", c.positive("eps"), self.vector("layer_norm", self._name(f.layer_project_norm) + ".weight", d)
        )
        return LayerEmbedding(
            count,
            d,
            self.matrix("layer_embedding", self._name(f.layer_table), vocab, width),
            d**0.5,
            self.matrix("layer_project", self._name(f.layer_project), width, self.hidden),
            self.hidden**-0.5,
            norm,
            2**-0.5,
        )

    def layer_input(self, i: int) -> LayerInput | None:
        """The block by which a layer takes its embedding in."""
        f, d, at = self.f, self.layer_dim, f"layers.{i}."
        if not d:
            return None
        return LayerInput(
            i,
            cast(Activation, self.c.activation()),
            self.matrix(at + "input_gate", self._name(f.layer_gate, i), d, self.hidden),
            self.matrix(at + "input_o", self._name(f.layer_o, i), self.hidden, d),
            post_norm=self.norm(at + "input_post_norm", f.layer_post_norm, i),
        )

    def layer_scale(self, i: int) -> Vector | None:
        """What multiplies the residual after a layer."""
        f: Family = self.f
        return self.vector(f"layers.{i}.scale", self._name(f.layer_scale, i), 1) if f.layer_scale else None
