"""Turns a config and the names in a checkpoint into a `Model`, by the family's description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from edgekit.arch.config import LIMIT, Config
from edgekit.arch.families import FAMILIES
from edgekit.arch.family import Family
from edgekit.arch.spec import (
    Activation,
    Attention,
    Block,
    Bundled,
    Ffn,
    Model,
    Norm,
    Ranges,
)
from edgekit.arch.tensors import Shapes, Tensors
from edgekit.errors import CheckpointError, UnsupportedModelError


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
        whole = {k: config[k] for k in ("eos_token_id", "bos_token_id", "tie_word_embeddings") if k in config}
        config = {**config["text_config"], **whole, "model_type": "gemma3_text"}
    family = find_family(str(config.get("model_type")))
    for key, allowed in family.required_values.items():
        if config.get(key, allowed[0]) not in allowed:
            raise UnsupportedModelError(
                f"config.json: {key} is {config[key]!r}, which edgekit does not compute for {family.model_types[0]}"
            )
    return _Builder(Config(config, family), shapes).model(generation or {})


class _Builder(Tensors):
    """Blocks, and the whole."""

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
        b = {n: self.bias(at + n + "_bias", tensors[n], sizes[n], ranges[n], whole, f.qkv_bias) for n in "qkv"}
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
            self.bias(at + "o_bias", o, self.hidden, rule=f.o_bias),
            self.norm(at + "q_norm", f.q_norm, i, d if per_head else heads * d, per_head),
            self.norm(at + "k_norm", f.k_norm, i, d if per_head else kv * d, per_head),
            self.rope(kind, d),
            c.size("window") if kind == "sliding_attention" else 0,
            c.number("attn_logit_softcapping"),
            pre,
            post,
            out,
            bool(c.get("norm_relu")),
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
                up_relu=bool(c.get("ffn_up_relu")),
                pre_relu=bool(c.get("norm_relu")),
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
            self.bias(at + "gate_bias", gate_name, size, ranges[0], whole, f.ffn_bias) if gate_name else None,
            self.bias(at + "up_bias", up_name, size, ranges[1], whole, f.ffn_bias),
            self.bias(at + "down_bias", down, self.hidden, rule=f.ffn_bias),
            up_relu=bool(c.get("ffn_up_relu")),
            pre_relu=bool(c.get("norm_relu")),
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
        tied = bool(c.get("tied", f.tied_default))
        if not tied and head_tensor not in self.shapes:
            raise CheckpointError(
                f"the checkpoint has no tensor '{head_tensor}', though config.json does not tie it to the embedding; "
                "download it again, or set tie_word_embeddings to true if the model ties them"
            )
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
