"""How a family of checkpoints names its tensors and config fields. One data-only file each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# Config keys that most families read; a family's `reads` begins with them.
COMMON = frozenset({"vocab_size", "tie_word_embeddings", "bos_token_id", "eos_token_id"})
DECODER = COMMON | {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
}
ENCODER = COMMON | {
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "type_vocab_size",
    "pad_token_id",
}
WINDOWS = frozenset({"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"})


@dataclass(frozen=True)
class EncoderParts:
    """What an encoder has that a decoder has not; names are templates as in `Family`.

    Attributes:
        embedding_norm: after the sum of embeddings.
        token_types: embeddings of token types.
        padded_positions: positions begin behind the padding token's id, and the table's rows count from zero.
        first_norm: whether the first layer norms its input too.
        score: of rerankers, the matrix that makes a score; its name is whole, as are the next two.
        score_project: what the pooled vector goes through first, `score_project_bias` as for other biases;
            `score_activation`: then an activation, or the config key that names it; `score_norm`: then a norm.
    """

    embedding_norm: str
    token_types: str = ""
    padded_positions: bool = False
    first_norm: bool = True
    score: str = ""
    score_project: str = ""
    score_project_bias: str = "always"
    score_activation: str = "tanh"
    score_norm: str = ""


@dataclass(frozen=True)
class Family:
    """Everything that sets one family apart; `arch.build` turns it and a config into a `Model`.

    Tensor names are templates: `{i}` the layer, `{e}` the expert; ".weight" and ".bias" are added.
    A bias is read when its rule says that the model has it, as transformers does.

    Attributes:
        model_types: values of `model_type` in config.json that this describes.
        fields: our name of a size -> the config's name for it, where they differ.
        defaults: values of config keys that config.json may leave out; transformers' (`arch.defaults`).
        aliases: other names that transformers accepts for keys -> the key.
        reads: config keys that a description is made from; all others are as good as absent.
        harmless: config keys of this family that change nothing edgekit computes.
        prefixes: prefixes that some checkpoints of the family put before every name.
        qkv: a fused projection; `qkv_layout` "stacked" is q rows, k rows, v rows, "per_head" is
            (q, k, v) head by head.
        eps: of the norms, where the config has no key for it.
        norm_add: added to norm weights (Gemma stores w - 1).
        norm_bias: whether layer norms have a bias.
        scale: attention scale: 1/sqrt(head_dim), 1/sqrt(query_pre_attn_scalar), attention_multiplier, or 1.
        windows: which layers have a sliding window: by config's layer_types, all of them,
            GPT-Neo's attention_types, or those without a rotary embedding; where layer_types are missing,
            "layer_types" takes the layers from max_window_layers on, "alternating" every other one below it;
            "linear_interval": all layers are linear attention but each full_attention_interval-th.
        window_pattern: where layer_types are missing, every how many layers one has no window.
        no_rope: layers without a rotary embedding: the config's no_rope_layers, those with full attention, or
            all unless position_embedding_type is "rope".
        rope_interleaved: value 2i of a head is rotated with 2i + 1; the rows of q and k are put in our order.
        rope_by_kind: windowed layers have rope parameters of their own, which no rope_scaling changes.
        qkv_bias, o_bias, ffn_bias: when that bias must be there: "always", or the config key that says so.
        optional_norms: norms that not every model has -> the config key that says whether it has.
        partial_rotary: whether the family rotates only a part of each head; others ignore the key.
        rope_aliases: rope type in a config -> what it means in this family.
        required_values: config key -> the only values with which edgekit computes what the model means.
        kinds: what a layer may be, by the config's layer_types.
        conv_in, conv, conv_o: of layers of the kind "conv": a fused projection [gate in, gate out, value], the
            kernel and the projection out; biases by `conv_bias`.
        v_unit: values have a norm without weights, head by head.
        shared_kv: the last num_kv_shared_layers layers read the keys and values of another layer of their kind.
        head_sizes_by_layer: full attention has a head_dim, and perhaps key-value heads, of its own: in
            per_layer_config, or global_head_dim and, with attention_k_eq_v, num_global_key_value_heads; its values are
            its keys then.
        layer_table, layer_project, layer_project_norm, layer_gate, layer_o, layer_post_norm: of an embedding for
            each layer, where the config's hidden_size_per_layer_input is not 0.
        layer_scale: what multiplies the residual after a layer.
        q_gated: the projection of queries has, behind the rows of each head, as many that gate what it attends to.
        linear_qkvz, linear_ba: of layers of the kind "linear_attention": projections that hold, key head by key head,
            its q, its k, and the v and z of its value heads; and the b and a of these.
        linear_qkv, linear_z, linear_b, linear_a: the same as projections of their own, where those are empty.
        linear_conv, linear_norm, linear_o, linear_decay_log, linear_decay_bias: the rest of these layers; the last two
            are whole names of tensors.
        activation: of feed-forward blocks, where the config has no key for it.
        router_scores: what makes probabilities of the router's scores; `choice_bias` names a vector added to them for
            the choice alone, where the config's use_expert_bias says so; `normalize_eps` is added to the sum that
            normalizes.
        norm_order: "pre" (before each sublayer), "post" (after its sum with the residual) or "config" (OPT's
            do_layer_norm_before).
        parallel: whether feed-forward blocks read what attention read.
        expert_gate_up: gate and up of all experts in one tensor [experts, 2 * size, hidden]; `expert_down` is then
            [experts, hidden, size]. With an `expert_gate` too it counts where the checkpoint has it, and
            `stacked_down` is then the other.
        expert_pairs: of each expert, a tensor [hidden, 2 * size] with gate and up in turn (or its MXFP4 blocks
            [2 * size, hidden]); `expert_down` is then [experts, size, hidden]. Each has a bias, as has the router.
        sinks: scores of a position that is not there, one for each head.
        o_norm, down_norm: norms of what heads attended to, before `o`, and of the neurons' values, before `down`.
        packed: values of quant_method in a quantization_config that reading a checkpoint undoes.
        shared_gate, shared_up, shared_gate_up, shared_down: a dense block beside the experts, of the config's
            `shared_size`; `shared_router`: [1, hidden], whose sigmoid scales it.
        encoder: of families whose tokens see all others.
    """

    model_types: tuple[str, ...]
    embed: str
    final_norm: str | None
    o: str
    down: str
    fields: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    reads: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ("",)
    head: str = "lm_head"
    q: str = ""
    k: str = ""
    v: str = ""
    qkv: str = ""
    qkv_layout: Literal["stacked", "per_head"] = "stacked"
    gate: str = ""
    up: str = ""
    gate_up: str = ""
    router: str = ""
    expert_gate: str = ""
    expert_up: str = ""
    expert_down: str = ""
    expert_gate_up: str = ""
    stacked_down: str = ""
    expert_pairs: str = ""
    sinks: str = ""
    o_norm: str = ""
    down_norm: str = ""
    packed: frozenset[str] = frozenset()
    shared_gate: str = ""
    shared_up: str = ""
    shared_gate_up: str = ""
    shared_down: str = ""
    shared_router: str = ""
    attention_norm: str = ""
    attention_post_norm: str = ""
    ffn_norm: str = ""
    ffn_post_norm: str = ""
    q_norm: str = ""
    k_norm: str = ""
    qk_norm_per_head: bool = True
    norm: Literal["rms", "layer"] = "rms"
    norm_add: float = 0.0
    norm_bias: bool = True
    eps: float = 0.0
    rope: bool = True
    position: str = ""
    position_offset: int = 0
    project_in: str = ""
    project_out: str = ""
    scale: Literal["head_dim", "query_pre_attn_scalar", "attention_multiplier", "one"] = "head_dim"
    windows: Literal[
        "none", "all", "layer_types", "alternating", "attention_types", "no_rope", "full_attn_idxs", "linear_interval"
    ] = "none"
    window_pattern: int = 0
    no_rope: Literal["", "no_rope_layers", "full_attention", "position_embedding_type"] = ""
    rope_interleaved: bool = False
    rope_by_kind: bool = False
    norm_order: Literal["pre", "post", "config"] = "pre"
    parallel: Literal["never", "config", "always"] = "never"
    embedding_scaled: bool = False
    qkv_bias: str = ""
    o_bias: str = ""
    ffn_bias: str = ""
    optional_norms: Mapping[str, str] = field(default_factory=dict)
    partial_rotary: bool = False
    rope_aliases: Mapping[str, str] = field(default_factory=dict)
    required_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    conv1d: bool = False
    kinds: frozenset[str] = frozenset({"full_attention", "sliding_attention"})
    conv_in: str = ""
    conv: str = ""
    conv_o: str = ""
    conv_bias: str = ""
    v_unit: bool = False
    shared_kv: bool = False
    head_sizes_by_layer: bool = False
    layer_table: str = ""
    layer_project: str = ""
    layer_project_norm: str = ""
    layer_gate: str = ""
    layer_o: str = ""
    layer_post_norm: str = ""
    layer_scale: str = ""
    q_gated: bool = False
    linear_qkvz: str = ""
    linear_ba: str = ""
    linear_qkv: str = ""
    linear_z: str = ""
    linear_b: str = ""
    linear_a: str = ""
    linear_conv: str = ""
    linear_norm: str = ""
    linear_o: str = ""
    linear_decay_log: str = ""
    linear_decay_bias: str = ""
    activation: str = ""
    router_scores: Literal["softmax", "sigmoid"] = "softmax"
    choice_bias: str = ""
    normalize_eps: float = 0.0
    normalize_experts: Literal["always", "config"] = "always"
    encoder: EncoderParts | None = None


@dataclass(frozen=True)
class VisionFamily:
    """What a family of models has to see pictures.

    Attributes:
        model_types: of the whole model, in config.json.
        kind: of the processor, as in `spec.Pictures`.
        encoder: of the config's vision_config; `embed` is the embedding of patches.
        token: config keys of the token that stands for a row of a picture, the first that is there.
        merge: the config key for the side of the square of patches that becomes one row, or, with `rows`, for the rows
            of a picture; `merge_default` where the config leaves it out.
        project: whole names that the projector's matrix may have, as "projector" and "model.projector".
        settings: keys of preprocessor_config.json that are read.
        both_ways: whether the rows of a picture see each other in the decoder.
        rows: what `merge` counts.
        mean: whether the patches of a square become their mean; else they are put side by side.
        norm: whole names that the norm of merged patches may have; its weights have 1 added.
        project_turned: whether the projector's matrix is stored [inputs, outputs], without ".weight" in its name.
        norm_kind: of that norm; a layer norm has a bias, and its weights are as they stand.
        project_in: whole names of a matrix before that of the projector, if its config has a `project_size`.
        project_size: the config key, and the default, of what that gives; `project_activation` of what follows.
        linear: whether patches have their colours side by side, pixel by pixel, and the embedding is no convolution.
        patches: the config key for the positions of the table, where there is no image_size. Positions are then
            interpolated to the shape of a tile.
        marks: config keys, and their defaults, of tokens around a picture: the first stands for it in a prompt.
    """

    model_types: tuple[str, ...]
    kind: str
    encoder: Family
    token: tuple[str, ...]
    merge: str
    project: tuple[str, ...]
    settings: tuple[str, ...]
    both_ways: bool = False
    merge_default: int = 2
    rows: bool = False
    mean: bool = False
    norm: tuple[str, ...] = ()
    project_turned: bool = False
    norm_kind: Literal["rms", "layer"] = "rms"
    project_in: tuple[str, ...] = ()
    project_size: tuple[str, int] = ("", 0)
    project_activation: tuple[str, str] = ("", "")
    linear: bool = False
    patches: str = ""
    marks: tuple[tuple[str, int], ...] = ()
