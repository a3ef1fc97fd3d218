"""What an architecture is, as values: blocks with sizes, and where each tensor comes from.

A `Model` is told once per checkpoint by `arch.build.describe`; the writer stores it in the manifest,
the runtime and every converter read it from there. Shapes are [rows, cols] with rows the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2", "threshold", "shifted_relu", "quick_gelu"]
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Matrix:
    """A weight matrix and its source.

    Attributes:
        name: name in the bundle.
        tensor: name in the checkpoint.
        rows: outputs.
        cols: inputs.
        ranges: output rows of the checkpoint's tensor that belong to this matrix, in order; empty
            for all (fused projections are told apart this way).
        transposed: the checkpoint stores [inputs, outputs] (GPT-2's Conv1D).
        index: the checkpoint's tensor stacks several matrices along a first axis, and this is one of them.
        step: every how many rows of each range belong to it, from its first on.
    """

    name: str
    tensor: str
    rows: int
    cols: int
    ranges: Ranges = ()
    transposed: bool = False
    index: int | None = None
    step: int = 1


@dataclass(frozen=True)
class Vector:
    """A small f32 tensor: from the checkpoint (`tensor`, `ranges`, plus `add`) or given as `values`.

    `order` names a tensor of indices: element i is then element order[i] of that. `step` is as for matrices.
    """

    name: str
    count: int
    tensor: str | None = None
    ranges: Ranges = ()
    add: float = 0.0
    values: tuple[float, ...] | None = None
    order: str | None = None
    step: int = 1


@dataclass(frozen=True)
class Norm:
    """RMS norm or layer norm; `per_head` only for norms of queries and keys."""

    kind: Literal["rms", "layer"]
    eps: float
    weight: Vector | None
    bias: Vector | None = None
    per_head: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotary positions over the first `dim` values of a head, paired half against half.

    Attributes:
        inv_freq: [dim / 2], scaling already applied.
        scale: multiplies cos and sin.
        long_inv_freq: used for sequences longer than `switch_length` (LongRoPE).
        dynamic: (base, factor) of dynamic NTK, in force beyond `switch_length`.
    """

    dim: int
    inv_freq: Vector
    scale: float = 1.0
    long_inv_freq: Vector | None = None
    dynamic: tuple[float, float] | None = None
    switch_length: int = 0


@dataclass(frozen=True)
class Attention:
    """Attention with grouped queries; `window` 0 means unlimited, `rope` None no rotation.

    `residual_scale`, here and in feed-forward blocks: of what the block adds to the residual (Granite). `sinks`
    [heads]: scores of a position that takes weight and gives nothing (gpt-oss). `gate` [heads * head_dim, hidden]: the
    sigmoid of its product with the block's input scales what is attended to (Qwen3-Next). `source`: the block whose
    keys and values it reads, as it has none (Gemma 4); `k` and `v` are then None. `v` may be `k` itself. `v_norm`: of
    each head's values, not rotated. `o_norm`: of what all heads attended to, before `o` (BitNet). `causal` False: a
    token sees those behind it too, with a window as many as before it (encoders).
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    q: Matrix
    k: Matrix | None
    v: Matrix | None
    o: Matrix
    q_bias: Vector | None = None
    k_bias: Vector | None = None
    v_bias: Vector | None = None
    o_bias: Vector | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    rope: int | None = None
    window: int = 0
    softcap: float = 0.0
    pre_norm: Norm | None = None
    post_norm: Norm | None = None
    out_norm: Norm | None = None
    pre_relu: bool = False
    residual_scale: float = 1.0
    sinks: Vector | None = None
    gate: Matrix | None = None
    gate_bias: Vector | None = None
    v_norm: Norm | None = None
    source: int | None = None
    out_scale: Vector | None = None
    causal: bool = True
    o_norm: Norm | None = None


@dataclass(frozen=True)
class LayerInput:
    """A layer's own embedding of the token, gated by the residual (Gemma 4): o (act(gate x) * input `index`)."""

    index: int
    activation: Activation
    gate: Matrix
    o: Matrix
    pre_norm: Norm | None = None
    post_norm: Norm | None = None
    out_norm: Norm | None = None
    pre_relu: bool = False
    residual_scale: float = 1.0
    out_scale: Vector | None = None


@dataclass(frozen=True)
class LinearAttention:
    """The gated delta rule (arXiv 2412.06464): a state that each token decays and corrects, in place of a cache.

    `q`, `k` and `v` go through a causal depthwise convolution of `taps` tokens and an activation; `kernel`
    [2 * key_heads * key_dim + value_heads * value_dim, taps] has their channels in that order. Value head h reads with
    key head h // (value_heads / key_heads). `beta` and `decay` [value_heads, hidden]: how much of a token is written,
    and, with `decay_log` and `decay_bias` [value_heads], exp(-exp(decay_log) softplus(decay x + decay_bias)) of the
    state that stays. `norm` [value_dim] is over each head, and silu(gate x) scales what it gives.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    activation: Activation
    q: Matrix
    k: Matrix
    v: Matrix
    gate: Matrix
    beta: Matrix
    decay: Matrix
    o: Matrix
    kernel: Vector
    decay_log: Vector
    decay_bias: Vector
    norm: Norm
    pre_norm: Norm | None = None
    post_norm: Norm | None = None
    out_norm: Norm | None = None
    pre_relu: bool = False
    residual_scale: float = 1.0


@dataclass(frozen=True)
class Convolution:
    """A gated short convolution (LFM2): o (gate_out x * conv(gate_in x * value x)), depthwise and causal.

    `kernel` holds `taps` weights for each channel, the last of them for the token at hand.
    """

    taps: int
    gate_in: Matrix
    gate_out: Matrix
    value: Matrix
    o: Matrix
    kernel: Vector
    gate_in_bias: Vector | None = None
    gate_out_bias: Vector | None = None
    value_bias: Vector | None = None
    o_bias: Vector | None = None
    kernel_bias: Vector | None = None
    pre_norm: Norm | None = None
    post_norm: Norm | None = None
    out_norm: Norm | None = None
    pre_relu: bool = False
    residual_scale: float = 1.0


@dataclass(frozen=True)
class Bundled:
    """The matrices whose row i (column i of down) make neuron i's bundle; gate is None if plain.

    `order` names a tensor of indices: neuron i of the bundle is neuron order[i] of the checkpoint.
    """

    name: str
    up: Matrix
    down: Matrix
    gate: Matrix | None = None
    order: str | None = None


@dataclass(frozen=True)
class Predictor:
    """Tells from a block's input x which neurons will be active: up (down x) + bias > 0.

    `report` holds what was measured when it was trained: rank, false_negatives, false_positives, active,
    predicted (shares of all neurons), for people and for the planner.
    """

    down: Matrix
    up: Matrix
    bias: Vector
    report: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Ffn:
    """A feed-forward block, dense (`experts` empty, one entry in `bundles`) or a mixture of experts.

    Attributes:
        out_scale: [1], here and in other blocks: multiplies the residual after the block (Gemma 4).
        parallel: reads the residual that the preceding block read: attention (GPT-NeoX), or the experts beside which
            this is the shared one.
        up_relu: ReLU on up too (dReLU, arXiv 2406.05955).
        pre_relu: here and in other blocks: ReLU after the pre norm.
        limit: of gated blocks: gate is at most this before its activation, up within plus and minus this; 0 for none.
        up_add: of gated blocks: added to up.
        gate_bias, up_bias, down_bias: of a mixture one row for each expert, in one vector.
        output_gate: [1, hidden]; its sigmoid scales the output (a shared expert's gate).
        scoring: what makes probabilities of the router's scores, to which `router_bias` is added first.
        choice_bias: [experts], added to probabilities for the choice alone.
        normalize_eps: added to the sum of probabilities that normalizes.
        routed_scale: multiplies the weights of experts in the end.
        down_norm: of dense gated blocks: an RMS norm of the neurons' values, before down (BitNet).
        reuse: of experts, how often those that are wanted were kept, by the share of them held (a calibration
            measures it).
    """

    size: int
    activation: Activation
    bundles: tuple[Bundled, ...]
    threshold: float = 0.0
    parallel: bool = False
    gate_bias: Vector | None = None
    up_bias: Vector | None = None
    down_bias: Vector | None = None
    router: Matrix | None = None
    top_k: int = 0
    normalize: bool = False
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    router_bias: Vector | None = None
    choice_bias: Vector | None = None
    normalize_eps: float = 0.0
    routed_scale: float = 1.0
    predictor: Predictor | None = None
    cuts: Vector | None = None
    reuse: tuple[tuple[float, float], ...] = ()
    up_relu: bool = False
    pre_relu: bool = False
    pre_norm: Norm | None = None
    post_norm: Norm | None = None
    out_norm: Norm | None = None
    residual_scale: float = 1.0
    output_gate: Matrix | None = None
    limit: float = 0.0
    up_add: float = 0.0
    out_scale: Vector | None = None
    down_norm: Norm | None = None

    @property
    def gated(self) -> bool:
        return self.bundles[0].gate is not None


Mixer = Attention | Convolution | LinearAttention  # what looks at other tokens
Block = Mixer | Ffn | LayerInput


@dataclass(frozen=True)
class LayerEmbedding:
    """What layers get of each token besides the residual: `count` inputs of `dim` values.

    Input i is (norm(project_scale * project x)[i] + scale * table[token][i]) * mix for the token's embedding x, with
    the norm over each input. A row of the table [vocab, count * dim] is read for each token.
    """

    count: int
    dim: int
    table: Matrix
    scale: float
    project: Matrix
    project_scale: float
    norm: Norm
    mix: float


@dataclass(frozen=True)
class Pooling:
    """How the hidden states of a text become its vector, and how a text is prepared for that.

    Attributes:
        mode: the first token's, their mean, the largest of each value, or the last token's.
        normalize: the vector is divided by its length.
        max_length: tokens of a text; the rest is cut off.
        prompts: pairs of a name and what is put before a text ("query", "Represent this sentence: ").
        default_prompt: name of the one that is put before a text when none is asked for; "" for none.
        lowercase: whether a text is put in small letters first.
        sigmoid: of rerankers: a score is the sigmoid of what the head gives.
    """

    mode: Literal["cls", "mean", "max", "last"]
    normalize: bool
    max_length: int
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str = ""
    lowercase: bool = False
    sigmoid: bool = False


@dataclass(frozen=True)
class Merge:
    """How an encoder of pictures makes rows for a decoder: `patches` neighbours in the order of the input are put side
    by side, or their mean is taken; then comes a norm, and the model's head."""

    patches: int
    mean: bool = False
    norm: Norm | None = None


@dataclass(frozen=True)
class Model:
    """A whole model. `head` may be the embedding itself (tied); `head_scale` multiplies the logits.

    Attributes:
        output: what it gives: logits of each token (a decoder), a vector of the text (no `head`), a score of it
            (`head` has one row and multiplies the vector), or what a decoder reads of a picture. In the last case
            `embedding` [hidden, values of a patch] with `embedding_bias` multiplies patches, there is no vocabulary,
            `max_context` is the most patches, and a row is head activation(head_project merged + bias) + bias.
        pooling: how the vector of a text is made; None where only logits are asked for.
        token_types: [types, hidden], added to the embeddings of tokens by their type.
        head_activation: with `head_project_bias` and `head_norm`: score = head norm(activation(project vector + bias)).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    max_context: int
    embedding: Matrix
    head: Matrix | None
    blocks: tuple[Block, ...]
    ropes: tuple[Rope, ...] = ()
    embedding_scale: float = 1.0
    embedding_project: Matrix | None = None
    embedding_norm: Norm | None = None
    layer_embedding: LayerEmbedding | None = None
    position: Matrix | None = None
    position_offset: int = 0
    final_norm: Norm | None = None
    head_bias: Vector | None = None
    head_project: Matrix | None = None
    head_softcap: float = 0.0
    head_scale: float = 1.0
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    output: Literal["logits", "embedding", "score", "image"] = "logits"
    pooling: Pooling | None = None
    token_types: Matrix | None = None
    head_project_bias: Vector | None = None
    head_activation: str = ""
    head_norm: Norm | None = None
    embedding_bias: Vector | None = None
    merge: Merge | None = None


@dataclass(frozen=True)
class Pictures:
    """How a picture becomes patches, and what stands for it in a text.

    Attributes:
        kind: whose processor it is: how a picture is cut into tiles and what its text is (edgekit/pictures).
        token: id of the token that stands for one row of an encoded picture.
        rows: rows of a tile.
        both_ways: whether the rows of a tile see each other in the decoder.
        patch: height and width of a patch.
        merge: patches of a side of the square that becomes one row.
        grid: positions of a side in the encoder's table.
        settings: of the processor (preprocessor_config.json), as far as they are read, by name.
        marks: tokens around a picture, of which the first stands for it in a prompt; none where `token` does.
        channels_last: a patch is its pixels with their three colours each, and not its colours one after the other.
        interpolated: the table of positions is stretched to the shape of each tile.
    """

    kind: str
    token: int
    rows: int
    both_ways: bool
    patch: int
    merge: int
    grid: int
    settings: tuple[tuple[str, Any], ...]
    marks: tuple[int, ...] = ()
    channels_last: bool = False
    interpolated: bool = False


@dataclass(frozen=True)
class Vision:
    """The part of a checkpoint that sees."""

    encoder: Model
    pictures: Pictures
