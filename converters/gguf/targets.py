"""What llama.cpp computes for the architectures of GGUF files, and whether that is what a bundle's model computes.

One `Target` for each of our model types; facts are those of `src/models/*.cpp` of https://github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgekit.converters.weights import Json
from edgekit.errors import ConvertError

MIXERS = ("attention", "convolution", "linear_attention")


@dataclass(frozen=True)
class Target:
    """An architecture of llama.cpp, as data.

    Attributes:
        name: the file's general.architecture.
        rotates: it rotates neighbouring values of a head, not one half by the other.
        qkv: queries, keys and values are one tensor.
        gate_up: gate and up are one tensor.
        ffn_norm: what the norm before feed-forward blocks is called; "" where it is that of attention.
        final_norm: likewise.
        activation: of feed-forward blocks.
        windows: every how many layers one sees everything; 0: its code has no windows.
        unrotated: which layers have no positions: every so many, or those without a window if -1; 0 for none.
        normalize: whether the weights of chosen experts are divided by their sum; None where there are no experts.
        scoring: what makes probabilities of the router's scores; None if only normalized ones are the same.
        embedding: the scale of embeddings: "one", "root" of the width, or a "key" of the file.
        scales: the file has keys for scales of attention and of residuals.
        logits: how the file tells the scale of logits: "", "divisor" or "factor".
        table: its code reads a table of factors of rotary frequencies.
        mixers: kinds of blocks besides attention.
        norm: kind of its norms.
        tiled: heads of values lie beside those of other key heads in linear attention, not grouped.
    """

    name: str
    rotates: bool = False
    qkv: bool = False
    gate_up: bool = False
    ffn_norm: str = "ffn_norm"
    final_norm: str = "output_norm"
    activation: str = "silu"
    windows: int = 0
    unrotated: int = 0
    normalize: bool | None = None
    scoring: str = "softmax"
    embedding: str = "one"
    scales: bool = False
    logits: str = ""
    table: bool = False
    mixers: tuple[str, ...] = ("attention",)
    norm: str = "rms"
    tiled: bool = False


_LLAMA = Target("llama", rotates=True, table=True)
_GRANITE = Target("granite", rotates=True, table=True, embedding="key", scales=True, logits="divisor")
_LFM2 = Target("lfm2", final_norm="token_embd_norm", mixers=("attention", "convolution"))
_QWEN35 = Target("qwen35", ffn_norm="post_attention_norm", mixers=("attention", "linear_attention"), tiled=True)

TARGETS: dict[str, Target] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": replace(_LLAMA, normalize=True),
    "qwen2": Target("qwen2"),
    "qwen2_moe": Target("qwen2moe", normalize=False),
    "qwen3": Target("qwen3"),
    "qwen3_moe": Target("qwen3moe", normalize=True),
    "gemma3_text": Target("gemma3", activation="gelu_tanh", windows=6, embedding="root"),
    "phi3": Target("phi3", qkv=True, gate_up=True),
    "granite": _GRANITE,
    "granitemoe": replace(_GRANITE, name="granitemoe", normalize=True),
    "smollm3": Target("smollm3", rotates=True, unrotated=4),
    "olmo2": Target("olmo2"),
    "olmoe": Target("olmoe", normalize=False),
    "cohere2": Target(
        "cohere2", rotates=True, ffn_norm="", norm="layer", windows=4, unrotated=-1, logits="factor", table=True
    ),
    "nemotron": Target("nemotron", norm="layer", activation="relu2"),
    "gpt2": Target("gpt2", qkv=True, norm="layer", activation="gelu_tanh"),
    "gpt_oss": Target(
        "gpt-oss", ffn_norm="post_attention_norm", activation="quick_gelu", windows=2, normalize=True
    ),
    "lfm2": _LFM2,
    "lfm2_moe": replace(_LFM2, name="lfm2moe", normalize=True, scoring="sigmoid"),
    "qwen3_next": replace(_QWEN35, name="qwen3next", normalize=True, tiled=False),
    "qwen3_5_text": _QWEN35,
    "qwen3_5_moe_text": replace(_QWEN35, name="qwen35moe", normalize=True),
}  # fmt: skip
OSS_LIMIT = 7.0  # of gpt-oss's gate and up, in llama.cpp's code


def target_of(model: Json) -> Target:
    """The architecture of llama.cpp that computes what a model computes.

    Raises:
        ConvertError: there is none, or it differs in something that no file can tell.
    """
    kind = model["model_type"]
    if kind not in TARGETS:
        raise ConvertError(f"gguf: llama.cpp's files of '{kind}' are not written, only of {', '.join(TARGETS)}")
    target = TARGETS[kind]
    found = next(_differences(model, target), None)
    if found is not None:
        raise ConvertError(f"gguf: llama.cpp's '{target.name}' {found}; export 'onnx' or 'mlx-exact'")
    return target


def windows(model: Json) -> list[int]:
    """The window of each layer, 0 for none."""
    return [b.get("window", 0) for b in model["blocks"] if b["kind"] in MIXERS]


def _differences(model: Json, target: Target) -> Iterator[str]:
    """What of a model its architecture does not compute."""
    embedding, head = model["embedding"], model["head"]
    root = abs(embedding["scale"] ** 2 / model["hidden_size"] - 1) < 1e-2  # Gemma rounds it to bf16
    if target.embedding != "key" and not (root if target.embedding == "root" else embedding["scale"] == 1):
        yield "has no such scale of embeddings"
    if {"project", "types", "norm"} & embedding.keys() or "project" in head or head["softcap"] or "bias" in head:
        yield "has no projected, normalized or capped embeddings and logits"
    if ("position" in embedding) != (target.name == "gpt2"):
        yield "has other positions"
    if not target.logits and head.get("scale", 1) != 1:
        yield "has no scale of logits"
    if target.name == "cohere2" and head["matrix"] != embedding["matrix"]:
        yield "has tied embeddings only"
    yield from _mixers(model, target)
    for block in model["blocks"]:
        if block["kind"] not in MIXERS:
            yield from _feed_forward(block, target)
        norms = [block[n] for n in ("pre_norm", "post_norm", "q_norm", "k_norm") if n in block]
        if "out_norm" in block or "pre_relu" in block or any(n["kind"] != target.norm for n in norms):
            yield "has other norms"
        if block.get("residual_scale", 1) != 1 and not target.scales:
            yield "has no scale of residuals"


def _mixers(model: Json, target: Target) -> Iterator[str]:
    blocks = [b for b in model["blocks"] if b["kind"] in MIXERS]
    others = {b["kind"] for b in blocks} - set(target.mixers)
    if others:
        yield f"has no blocks of the kind {', '.join(sorted(others))}"
    if any(b["kind"] == "attention" and b["softcap"] for b in blocks):
        yield "has no softcap of scores"
    spans = windows(model)
    if target.windows and any(spans) and [bool(w) for w in spans] != _every(len(spans), target.windows):
        yield f"has a window in all but every {target.windows}th layer"
    skip = target.unrotated
    rotated = [w > 0 for w in spans] if skip < 0 else _every(len(spans), skip) if skip else [True] * len(spans)
    for block, turned in zip(blocks, rotated, strict=True):
        if block["kind"] == "attention":
            if (block.get("rope") is not None) != (turned and target.name != "gpt2"):
                yield "rotates other layers"
            if abs(block["scale"] - block["head_dim"] ** -0.5) > 1e-6 and not target.scales:
                yield "has no such scale of scores"
            biased = target.name in ("qwen2", "qwen2moe") or block.get("q_bias") is None
            biased = biased or target.name in ("llama", "granite", "gpt2", "gpt-oss", "nemotron")
            if not biased:
                yield "has no biases of attention"
            rope = block.get("rope")
            if target.name == "olmoe" and block["kv_heads"] != block["heads"]:
                yield "has as many heads of keys as of queries"
            if target.rotates and rope is not None and model["ropes"][rope]["dim"] != block["head_dim"]:
                yield "rotates whole heads only"
        if block["kind"] == "linear_attention" and block["key_dim"] != block["value_dim"]:
            yield "has keys and values of one size in linear attention"
        if block["kind"] == "convolution" and any(k.endswith("_bias") for k in block):
            yield "has no biases of convolutions"


def _feed_forward(block: Json, target: Target) -> Iterator[str]:
    wanted, gelus = target.activation, {"gelu", "gelu_tanh"}
    steep = block["activation"] == "relu" and wanted == "silu" and block["gated"]
    if block["activation"] != wanted and not {block["activation"], wanted} <= gelus and not steep:
        yield f"computes {wanted}, not {block['activation']}"
    if block.get("up_relu") or block["gated"] != (target.name not in ("nemotron", "gpt2")):
        yield "has other feed-forward blocks"
    if block["parallel"] and block["kind"] == "ffn" and not ("output_gate" in block or target.name == "cohere2"):
        yield "adds feed-forward blocks one after the other"
    if target.name == "gpt-oss" and block.get("limit") != OSS_LIMIT:
        yield f"has a limit of {OSS_LIMIT:g}"
    if block["kind"] != "experts":
        return
    if target.normalize is None or block["normalize"] != target.normalize:
        yield "weighs experts otherwise"
    if block.get("scoring", "softmax") != target.scoring or block.get("routed_scale", 1) != 1:
        yield "scores experts otherwise"


def _every(count: int, n: int) -> list[bool]:
    """False for every n-th."""
    return [(i + 1) % n != 0 for i in range(count)]
