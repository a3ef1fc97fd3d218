"""Turns a config and the names in a checkpoint into a `Model`, by the family's description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from edgekit.arch.config import LIMIT, Config
from edgekit.arch.families import FAMILIES
from edgekit.arch.family import Family
from edgekit.arch.rope import frequencies
from edgekit.arch.spec import (
    Activation,
    Attention,
    Block,
    Bundled,
    Ffn,
    Matrix,
    Model,
    Norm,
    Ranges,
    Rope,
    Vector,
)
from edgekit.errors import CheckpointError, UnsupportedModelError

Shapes = Mapping[str, tuple[int, ...]]


def known_model_types() -> list[str]:
    """All values of `model_type` that can be converted."""
    return sorted(name for family in FAMILIES for name in family.model_types)


def find_family(model_type: str) -> Family:
    """The description of a model type.

    Raises:
        UnsupportedModelError: none; the message names the known ones and the file to add.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    raise UnsupportedModelError(
        f"config.json: model_type '{model_type}' is not described yet; known: "
        f"{', '.join(known_model_types())}. To add it, describe it in edgekit/arch/families/"
        f"{model_type if model_type.isidentifier() else 'NAME'}.py and list it in edgekit/arch/families/__init__.py"
    )


def describe(config: Mapping[str, Any], shapes: Shapes, generation: Mapping[str, Any] | None = None) -> Model:
    """Describes the model of a checkpoint.

    Args:
        config: config.json.
        shapes: name -> shape of every tensor in the checkpoint.
        generation: generation_config.json, if there is one.

    Raises:
        UnsupportedModelError: the model cannot be expressed.
        CheckpointError: a tensor is missing or has another shape than the config says.
    """
    if config.get("model_type") == "gemma3" and isinstance(config.get("text_config"), dict):
        config = {"model_type": "gemma3_text", **config["text_config"]}
    family = find_family(str(config.get("model_type")))
    return _Builder(Config(config, family), shapes).model(generation or {})


class _Builder:
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

    def bias(self, name: str, tensor: str, count: int, ranges: Ranges = (), whole: int = 0) -> Vector | None:
        key = tensor + ".bias"
        if key not in self.shapes:
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
        if not self._has(template, i):
            return None
        tensor, count = self._name(template, i), count or self.hidden
        self._check(tensor + ".weight", (count,))
        weight = Vector(name, count, tensor + ".weight", add=self.f.norm_add)
        bias = self.bias(name + "_bias", tensor, count) if self.f.norm == "layer" else None
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
            partial = params.get("partial_rotary_factor", self.c.get("partial_rotary", 1.0))
            dim = int(head_dim * float(partial)) // 2 * 2
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

    # --- blocks ------------------------------------------------------------------------------

    def attention(self, i: int) -> Attention:
        c, f = self.c, self.f
        heads = c.per_layer("heads", i)
        kv = c.per_layer("kv_heads", i, heads)
        if c.get("head_dim") is None and self.hidden % heads:
            raise UnsupportedModelError(f"config.json: {heads} heads do not divide a hidden size of {self.hidden}")
        d = c.size("head_dim", self.hidden // heads)
        if heads % kv:
            raise UnsupportedModelError(f"config.json: {kv} key-value heads do not divide {heads} heads")
        tensors, ranges, whole = self._qkv(i, heads, kv, d)
        at = f"layers.{i}."
        sizes = {"q": heads * d, "k": kv * d, "v": kv * d}
        m = {n: self.matrix(at + n, tensors[n], sizes[n], self.hidden, ranges[n], whole) for n in "qkv"}
        b = {n: self.bias(at + n + "_bias", tensors[n], sizes[n], ranges[n], whole) for n in "qkv"}
        o = self._name(f.o, i)
        kind = self.layer_kind(i)
        per_head = f.qk_norm_per_head
        pre, post, out = self._norm_places(at + "attention_", f.attention_norm, f.attention_post_norm, i)
        return Attention(
            heads,
            kv,
            d,
            self._scale(d, i),
            m["q"],
            m["k"],
            m["v"],
            self.matrix(at + "o", o, self.hidden, heads * d),
            b["q"],
            b["k"],
            b["v"],
            self.bias(at + "o_bias", o, self.hidden),
            self.norm(at + "q_norm", f.q_norm, i, d if per_head else heads * d, per_head),
            self.norm(at + "k_norm", f.k_norm, i, d if per_head else kv * d, per_head),
            self.rope(kind, d),
            c.size("window") if kind == "sliding_attention" else 0,
            c.number("attn_logit_softcapping"),
            pre,
            post,
            out,
        )

    def _qkv(self, i: int, heads: int, kv: int, d: int) -> tuple[dict[str, str], dict[str, Ranges], int]:
        f = self.f
        if not f.qkv:
            return (
                {"q": self._name(f.q, i), "k": self._name(f.k, i), "v": self._name(f.v, i)},
                dict.fromkeys("qkv", ()),
                0,
            )
        fused = dict.fromkeys("qkv", self._name(f.qkv, i))
        if f.qkv_layout == "per_head":
            spans = {
                n: tuple(((3 * h + j) * d, (3 * h + j + 1) * d) for h in range(heads)) for j, n in enumerate("qkv")
            }
            return fused, spans, 3 * heads * d
        q, k = heads * d, kv * d
        return fused, {"q": ((0, q),), "k": ((q, q + k),), "v": ((q + k, q + 2 * k),)}, q + 2 * k

    def _scale(self, head_dim: int, layer: int) -> float:
        if self.f.scale == "one" or self.c.get("scale_attn_weights") is False:
            return 1.0
        if self.f.scale == "query_pre_attn_scalar":
            return 1.0 / math.sqrt(self.c.number("query_pre_attn_scalar"))
        by_layer = layer + 1 if self.c.get("scale_attn_by_inverse_layer_idx") else 1
        return 1.0 / math.sqrt(head_dim) / by_layer

    def _norm_places(self, name: str, template: str, post: str, i: int) -> tuple[Norm | None, Norm | None, Norm | None]:
        norm = self.norm(name + "norm", template, i)
        after = self.norm(name + "post_norm", post, i)
        if self.f.norm_order == "config" and not self.c.get("do_layer_norm_before"):
            return None, after, norm
        return norm, after, None

    def ffn(self, i: int) -> Ffn:
        c, f, at = self.c, self.f, f"layers.{i}."
        pre, post, out = self._norm_places(at + "ffn_", f.ffn_norm, f.ffn_post_norm, i)
        activation = cast(Activation, c.activation())
        threshold = c.number("hidden_act_threshold")
        parallel = f.parallel == "config" and bool(c.get("use_parallel_residual"))
        if self._sparse(i):
            size, count = c.size("expert_size"), c.size("experts")
            bundles = tuple(
                self._bundle(f"{at}ffn.{e}", f.expert_gate, f.expert_up, f.expert_down, size, i, e)
                for e in range(count)
            )
            top_k = c.size("top_k")
            if top_k > count:
                raise UnsupportedModelError(f"config.json: {top_k} of {count} experts cannot be chosen")
            return Ffn(
                size,
                activation,
                bundles,
                threshold,
                parallel,
                router=self.matrix(at + "router", self._name(f.router, i), count, self.hidden),
                top_k=top_k,
                normalize=f.normalize_experts == "always" or bool(c.get("norm_topk_prob")),
                pre_norm=pre,
                post_norm=post,
                out_norm=out,
            )
        size = self._ffn_size(i)
        down = self._name(f.down, i)
        fused = self._has(f.gate_up, i)
        gate_name = self._name(f.gate_up if fused else f.gate, i) if fused or f.gate else ""
        up_name = self._name(f.gate_up if fused else f.up, i)
        ranges: tuple[Ranges, Ranges] = (((0, size),), ((size, 2 * size),)) if fused else ((), ())
        whole = 2 * size if fused else 0
        return Ffn(
            size,
            activation,
            (self._bundle(at + "ffn", f.gate, f.up, f.down, size, i),),
            threshold,
            parallel,
            self.bias(at + "gate_bias", gate_name, size, ranges[0], whole) if gate_name else None,
            self.bias(at + "up_bias", up_name, size, ranges[1], whole),
            self.bias(at + "down_bias", down, self.hidden),
            pre_norm=pre,
            post_norm=post,
            out_norm=out,
        )

    def _bundle(self, name: str, gate: str, up: str, down: str, size: int, i: int, e: int = 0) -> Bundled:
        down_matrix = self.matrix(name + ".down", self._name(down, i, e), self.hidden, size)
        if self.f.gate_up and not gate:
            tensor = self._name(self.f.gate_up, i)
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
        if not self.f.router or i in (self.c.get("mlp_only_layers") or []):
            return False
        return (i + 1) % int(self.c.get("decoder_sparse_step", 1)) == 0

    def _ffn_size(self, i: int) -> int:
        multipliers = self.c.get("ffn_multipliers")
        if multipliers is None:
            return self.c.per_layer("ffn", i, 4 * self.hidden)
        # OpenELM's make_divisible: the nearest multiple, but not less than nine tenths.
        by = self.c.size("ffn_divisor")
        wish = float(multipliers[i] if isinstance(multipliers, list) else multipliers) * self.hidden
        size = max(by, int(wish + by / 2) // by * by)
        return self.c.checked("ffn_multipliers", size + by if size < 0.9 * wish else size)

    # --- the whole ---------------------------------------------------------------------------

    def model(self, generation: Mapping[str, Any]) -> Model:
        c, f = self.c, self.f
        vocab, context = c.size("vocab"), c.size("context")
        width = c.size("word_embed_proj_dim", self.hidden) if f.project_in else self.hidden
        embedding = self.matrix("embedding", self._name(f.embed), vocab, width)
        projects = self._has(f.project_in)
        blocks: list[Block] = []
        for i in range(c.size("layers")):
            blocks += [self.attention(i), self.ffn(i)]
        head_tensor = f"{f.head}.weight"
        tied = bool(c.get("tied", f.tied_default)) or head_tensor not in self.shapes
        head = embedding if tied else self.matrix("head", f.head, vocab, width)
        position = None
        if f.position:
            rows = context + f.position_offset
            position = self.matrix("position", self._name(f.position), rows, self.hidden)
        eos = generation.get("eos_token_id", c.raw.get("eos_token_id"))
        bos = c.raw.get("bos_token_id")
        return Model(
            f.model_types[0],
            vocab,
            self.hidden,
            min(max(context, self.max_context), LIMIT),
            embedding,
            head,
            tuple(blocks),
            tuple(self.ropes),
            math.sqrt(self.hidden) if f.embedding_scaled else 1.0,
            self.matrix("project_in", self._name(f.project_in), self.hidden, width) if projects else None,
            position=position,
            position_offset=f.position_offset,
            final_norm=self.norm("final_norm", f.final_norm or ""),
            head_bias=None if tied else self.bias("head_bias", f.head, vocab),
            head_project=self.matrix("project_out", self._name(f.project_out), width, self.hidden)
            if projects
            else None,
            head_softcap=c.number("final_logit_softcapping"),
            eos_token_ids=_token_ids(eos),
            bos_token_id=bos if isinstance(bos, int) else None,
        )


def _token_ids(value: Any) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(x for x in listed if isinstance(x, int) and not isinstance(x, bool))
