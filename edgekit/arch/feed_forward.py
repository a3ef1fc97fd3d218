"""Feed-forward blocks of a checkpoint, by its family's description: dense, mixtures, and shared experts."""

from __future__ import annotations

from typing import Any, cast

from edgekit.arch.by_layer import LayerBuilder
from edgekit.arch.config import LIMIT
from edgekit.arch.spec import Activation, Bundled, Ffn, Matrix, Ranges, Vector
from edgekit.checkpoint.mxfp4 import BLOCKS
from edgekit.errors import UnsupportedModelError


class FeedForwardBuilder(LayerBuilder):
    """Describes the feed-forward blocks of a layer."""

    def feed_forwards(self, i: int) -> list[Ffn]:
        """One block, or the experts and then the expert that every token has."""
        if not self._sparse(i):
            return [self._dense(i)]
        return [self._experts(i), *([self._shared(i)] if self.f.shared_down else [])]

    def _common(self, i: int, name: str) -> dict[str, Any]:
        """What all blocks of a layer have alike; `name` of their norms."""
        c, f = self.c, self.f
        pre, post, out = self.norm_places(f"layers.{i}.{name}_", f.ffn_norm, f.ffn_post_norm, i)
        return {
            "activation": cast(Activation, c.activation()),
            "threshold": c.number("hidden_act_threshold", 0.0),
            "parallel": f.parallel == "always" or (f.parallel == "config" and c.flag("use_parallel_residual")),
            "up_relu": c.flag("ffn_up_relu"),
            "pre_relu": c.flag("norm_relu"),
            "residual_scale": c.number("residual_multiplier", 1.0),
            "limit": c.number("swiglu_limit", 0.0),
            "up_add": 1.0 if f.expert_pairs else 0.0,
            "pre_norm": pre,
            "post_norm": post,
            "out_norm": out,
        }

    def _dense(self, i: int) -> Ffn:
        f, at = self.f, f"layers.{i}."
        size = self._ffn_size(i)
        down = self._name(f.down, i)
        fused = self._has(f.gate_up, i)
        gate_name = self._name(f.gate_up if fused else f.gate, i) if fused or f.gate else ""
        up_name = self._name(f.gate_up if fused else f.up, i)
        ranges: tuple[Ranges, Ranges] = (((0, size),), ((size, 2 * size),)) if fused else ((), ())
        whole = 2 * size if fused else 0
        return Ffn(
            size=size,
            bundles=(self._bundle(at + "ffn", (f.gate, f.up, f.gate_up, f.down), size, i),),
            gate_bias=self.bias(at + "gate_bias", gate_name, size, ranges[0], whole, f.ffn_bias) if gate_name else None,
            up_bias=self.bias(at + "up_bias", up_name, size, ranges[1], whole, f.ffn_bias),
            down_bias=self.bias(at + "down_bias", down, self.hidden, rule=f.ffn_bias),
            down_norm=self.norm(at + "down_norm", f.down_norm, i, size),
            **self._common(i, "ffn"),
        )

    def _experts(self, i: int) -> Ffn:
        c, f, at = self.c, self.f, f"layers.{i}."
        size, count = c.size("expert_size"), c.size("experts")
        if count > LIMIT // 4 or (not (self._stacked(i) or f.expert_pairs) and count > len(self.shapes)):
            raise UnsupportedModelError(f"config.json: {count} experts are more than the checkpoint has")
        top_k = c.size("top_k")
        if top_k > count:
            raise UnsupportedModelError(f"config.json: {top_k} of {count} experts cannot be chosen")
        return Ffn(
            size=size,
            bundles=tuple(self._expert(i, e, count, size) for e in range(count)),
            router=self.matrix(at + "router", self._name(f.router, i), count, self.hidden),
            top_k=top_k,
            normalize=f.normalize_experts == "always" or c.flag("norm_topk_prob"),
            scoring=f.router_scores,
            choice_bias=self._choice_bias(i, count),
            normalize_eps=f.normalize_eps,
            routed_scale=c.number("routed_scaling_factor", 1.0),
            **self._common(i, "ffn"),
            **(self._pair_biases(i, count, size) if f.expert_pairs else {}),
        )

    def _pair_biases(self, i: int, count: int, size: int) -> dict[str, Any]:
        """Biases of gpt-oss's experts and router."""
        f, at = self.f, f"layers.{i}."
        both, down = (self._name(f"{template}_bias", i) for template in (f.expert_pairs, f.expert_down))
        self._check(both, (count, 2 * size))
        self._check(down, (count, self.hidden))
        whole = 2 * size * count
        return {
            "gate_bias": Vector(at + "gate_bias", size * count, both, ((0, whole),), step=2),
            "up_bias": Vector(at + "up_bias", size * count, both, ((1, whole),), step=2),
            "down_bias": Vector(at + "down_bias", self.hidden * count, down),
            "router_bias": self.vector(at + "router_bias", self._name(f.router, i) + ".bias", count),
        }

    def _paired(self, i: int, e: int, count: int, size: int) -> Bundled:
        """An expert of gpt-oss, as numbers or in MXFP4."""
        name, hidden = f"layers.{i}.ffn.{e}", self.hidden
        both, down = self._name(self.f.expert_pairs, i), self._name(self.f.expert_down, i)
        packed = both + BLOCKS in self.shapes
        both, down = (both + BLOCKS, down + BLOCKS) if packed else (both, down)
        self._check(both, (count, 2 * size, hidden) if packed else (count, hidden, 2 * size))
        self._check(down, (count, hidden, size) if packed else (count, size, hidden))

        def every_second(part: str, first: int) -> Matrix:
            return Matrix(f"{name}.{part}", both, size, hidden, ((first, 2 * size),), not packed, e, 2)

        down_matrix = Matrix(f"{name}.down", down, hidden, size, transposed=not packed, index=e)
        return Bundled(name, every_second("up", 1), down_matrix, every_second("gate", 0))

    def _choice_bias(self, i: int, count: int) -> Vector | None:
        if not self.f.choice_bias or not self.c.flag("use_expert_bias"):
            return None
        return self.vector(f"layers.{i}.choice_bias", self._name(self.f.choice_bias, i), count)

    def _stacked(self, i: int) -> bool:
        """Whether one tensor holds gate and up of all experts of a layer."""
        f = self.f
        return bool(f.expert_gate_up) and (not f.expert_gate or self._has(f.expert_gate_up, i, ""))

    def _expert(self, i: int, e: int, count: int, size: int) -> Bundled:
        f, name = self.f, f"layers.{i}.ffn.{e}"
        if f.expert_pairs:
            return self._paired(i, e, count, size)
        if not self._stacked(i):
            return self._bundle(name, (f.expert_gate, f.expert_up, "", f.expert_down), size, i, e)
        both, down = self._name(f.expert_gate_up, i), self._name(f.stacked_down or f.expert_down, i)

        def half(part: str, begin: int) -> Matrix:
            spans: Ranges = ((begin, begin + size),)
            return self.stacked(f"{name}.{part}", both, e, count, size, self.hidden, spans, 2 * size)

        down_matrix = self.stacked(f"{name}.down", down, e, count, self.hidden, size)
        return Bundled(name, half("up", size), down_matrix, half("gate", 0))

    def _shared(self, i: int) -> Ffn:
        """The expert of every token, which reads what the others read."""
        f, at = self.f, f"layers.{i}."
        size = self.c.size("shared_size")
        router = None
        if f.shared_router:
            router = self.matrix(at + "shared_router", self._name(f.shared_router, i), 1, self.hidden)
        names = (f.shared_gate, f.shared_up, f.shared_gate_up, f.shared_down)
        common = self._common(i, "shared_ffn") | {"parallel": True}
        bundles = (self._bundle(at + "shared_ffn", names, size, i),)
        return Ffn(size=size, bundles=bundles, output_gate=router, **common)

    def _bundle(self, name: str, names: tuple[str, str, str, str], size: int, i: int, e: int = 0) -> Bundled:
        """The matrices of one dense block or expert; `names`: of gate, up, both in one, and down."""
        gate, up, both, down = names
        down_matrix = self.matrix(name + ".down", self._name(down, i, e), self.hidden, size)
        if both and not gate:
            tensor = self._name(both, i)
            return Bundled(
                name,
                self.matrix(name + ".up", tensor, size, self.hidden, ((size, 2 * size),), 2 * size),
                down_matrix,
                self.matrix(name + ".gate", tensor, size, self.hidden, ((0, size),), 2 * size),
            )
        gate_matrix = self.matrix(name + ".gate", self._name(gate, i, e), size, self.hidden) if gate else None
        return Bundled(
            name, self.matrix(name + ".up", self._name(up, i, e), size, self.hidden), down_matrix, gate_matrix
        )

    def _sparse(self, i: int) -> bool:
        """Whether a layer is a mixture."""
        dense = self.c.get("mlp_only_layers", [])
        if not isinstance(dense, list) or not all(type(x) is int for x in dense):
            raise self.c.bad("mlp_only_layers", dense, "a list of layers")
        first = self.c.checked("num_dense_layers", self.c.get("num_dense_layers", 0), 0)
        if not self.f.router or i < first or i in dense or self.c.get("experts") == 0:
            return False
        return (i + 1) % self.c.size("decoder_sparse_step", 1) == 0

    def _ffn_size(self, i: int) -> int:
        multipliers = self.c.get("ffn_multipliers")
        if self.c.flag("block_auto_adjust_ff_dim"):
            return self._adjusted_ffn_size()
        if multipliers is None:
            wide = self.c.flag("use_double_wide_mlp") and self.kv_shared(i)
            return self.c.checked("ffn", self.c.per_layer("ffn", i, 4 * self.hidden) * (2 if wide else 1))
        # OpenELM's make_divisible: the nearest multiple, but not less than nine tenths.
        by = self.c.size("ffn_divisor")
        ours = multipliers[i] if isinstance(multipliers, list) and i < len(multipliers) else multipliers
        if isinstance(ours, bool) or not isinstance(ours, int | float) or not 0 < ours <= LIMIT:
            raise self.c.bad("ffn_multipliers", multipliers, "one positive number, or one per layer")
        wish = float(ours) * self.hidden
        size = max(by, int(wish + by / 2) // by * by)
        return self.c.checked("ffn_multipliers", size + by if size < 0.9 * wish else size)

    def _adjusted_ffn_size(self) -> int:
        """LFM2's: two thirds of the config's, times a factor, up to the next multiple."""
        size, by = int(2 * self.c.size("ffn") / 3), self.c.size("block_multiple_of")
        if self.c.get("block_ffn_dim_multiplier") is None:
            return self.c.checked("ffn", size)
        least = int(self.c.positive("block_ffn_dim_multiplier") * size)
        return self.c.checked("ffn", by * -(-least // by))
