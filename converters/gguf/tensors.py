"""Which tensors of a GGUF file are made of which weights of a bundle: names, order and shape, no values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgekit.converters.gguf.targets import Target
from edgekit.converters.weights import Json, Part, feed_forward_parts
from edgekit.errors import ConvertError

LAYER = re.compile(r"layers\.(\d+)\.")
Order = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A weight; `across`: it is stored [inputs, outputs]."""

    part: Part
    across: bool = False


@dataclass(frozen=True)
class MatrixTensor:
    """A tensor made of weights.

    Attributes:
        name: in the file.
        stack: the pieces of each of the matrices that it stacks, whose rows follow each other; mostly one of one.
        order: row i of the tensor is row order[i] of its pieces; None for their own order.
        columns: likewise.
        run: how many columns stay side by side.
        plain: it is written as numbers.
        stacked: it has an axis for the stack, also if that is one matrix.
        flat: it is written without the axis of its only row.
    """

    name: str
    stack: tuple[tuple[Piece, ...], ...]
    order: Order | None = None
    columns: Order | None = None
    run: int = 1
    plain: bool = False
    stacked: bool = False
    flat: bool = False


@dataclass(frozen=True)
class VectorTensor:
    """A tensor made of vectors, one after the other; `change` names what is done to them, `shape` what they become."""

    name: str
    vectors: tuple[str, ...]
    shape: tuple[int, ...] = (-1,)
    order: Order | None = None
    change: str = ""


Planned = MatrixTensor | VectorTensor


def plan(model: Json, target: Target) -> list[Planned]:
    """All tensors of a model's file but tables of rotary frequencies."""
    out: list[Planned] = [_one("token_embd.weight", model["embedding"]["matrix"])]
    if "position" in model["embedding"]:
        out.append(_one("position_embd.weight", model["embedding"]["position"], plain=True))
    layer = -1
    for block in model["blocks"]:
        found = LAYER.match(block["matrices"][0] if "matrices" in block else block["o"])
        if found is None:
            raise ConvertError(f"gguf: block '{block['kind']}' belongs to no layer")
        layer = int(found[1])
        out += [_named(f"blk.{layer}.", t) for t in BLOCKS[block["kind"]](block, target)]
    if "final_norm" in model:
        out += _norm(target.final_norm, model["final_norm"])
    if model["head"]["matrix"] != model["embedding"]["matrix"]:
        out.append(_one("output.weight", model["head"]["matrix"]))
    return out


def _named(prefix: str, tensor: Planned) -> Planned:
    return replace(tensor, name=prefix + tensor.name)


def _one(name: str, matrix: str, order: Order | None = None, *, plain: bool = False) -> MatrixTensor:
    return MatrixTensor(name, ((Piece(Part(matrix)),),), order, plain=plain)


def _joined(name: str, *matrices: str, order: Order | None = None) -> MatrixTensor:
    return MatrixTensor(name, (tuple(Piece(Part(m)) for m in matrices),), order)


def _norm(stem: str, norm: Json) -> Iterator[Planned]:
    if norm.get("weight"):
        yield VectorTensor(f"{stem}.weight", (norm["weight"],))
    if norm.get("bias"):
        yield VectorTensor(f"{stem}.bias", (norm["bias"],))


def _norms(block: Json, before: str, after: str) -> Iterator[Planned]:
    if "pre_norm" in block and before:
        yield from _norm(before, block["pre_norm"])
    if "post_norm" in block:
        yield from _norm(after, block["post_norm"])


def _swapped(*sizes: int) -> Order:
    """The order in which the last but one of three axes comes before the first of them."""
    out: Order = np.arange(int(np.prod(sizes))).reshape(sizes).swapaxes(-3, -2).ravel()
    return out


def _attention(block: Json, target: Target) -> Iterator[Planned]:
    yield from _norms(block, "attn_norm", "post_attention_norm")
    counts = {"q": block["heads"], "k": block["kv_heads"], "v": block["kv_heads"]}
    size = block["head_dim"]
    if target.qkv:
        yield _joined("attn_qkv.weight", block["q"], block["k"], block["v"])
        if "q_bias" in block:
            yield VectorTensor("attn_qkv.bias", (block["q_bias"], block["k_bias"], block["v_bias"]))
    for which, heads in counts.items() if not target.qkv else ():
        turned = target.rotates and which != "v"
        # Halves of each head come to lie side by side.
        order = _swapped(heads, 2, size // 2, 1).reshape(-1) if turned else None
        if which == "q" and "gate" in block:
            yield _joined("attn_q.weight", block["q"], block["gate"], order=_swapped(2, heads, size))
        else:
            yield _one(f"attn_{which}.weight", block[which], order)
        if f"{which}_bias" in block:
            yield VectorTensor(f"attn_{which}.bias", (block[f"{which}_bias"],), order=order)
        if f"{which}_norm" in block:
            norm = block[f"{which}_norm"]
            whole = order if turned and not norm.get("per_head") else None
            yield VectorTensor(f"attn_{which}_norm.weight", (norm["weight"],), order=whole)
    yield _one("attn_output.weight", block["o"])
    if "o_bias" in block:
        yield VectorTensor("attn_output.bias", (block["o_bias"],))
    if "sinks" in block:
        yield VectorTensor("attn_sinks.weight", (block["sinks"],))


def _convolution(block: Json, target: Target) -> Iterator[Planned]:
    yield from _norms(block, "attn_norm", "post_attention_norm")
    yield _joined("shortconv.in_proj.weight", block["gate_in"], block["gate_out"], block["value"])
    yield VectorTensor("shortconv.conv.weight", (block["kernel"],), (-1, block["taps"]))
    yield _one("shortconv.out_proj.weight", block["o"])


def _linear_attention(block: Json, target: Target) -> Iterator[Planned]:
    """Value heads of a key head follow each other here; `tiled`: the first of each key head come first."""
    keys, values, size = block["key_heads"], block["value_heads"], block["value_dim"]
    group, channels = values // keys, keys * block["key_dim"]
    heads = _swapped(keys, group, 1) if target.tiled else None
    rows = _swapped(keys, group, size) if target.tiled else None
    joined = None if rows is None else np.concatenate([np.arange(2 * channels), 2 * channels + rows])
    yield from _norms(block, "attn_norm", "")
    yield _joined("attn_qkv.weight", block["q"], block["k"], block["v"], order=joined)
    yield _one("attn_gate.weight", block["gate"], rows)
    if target.tiled:
        yield _one("ssm_beta.weight", block["beta"], heads)
        yield _one("ssm_alpha.weight", block["decay"], heads)
    else:
        yield _joined("ssm_ba.weight", block["beta"], block["decay"], order=_swapped(2, keys, group))
    taps = block["taps"]
    spread = None if joined is None else (joined[:, None] * taps + np.arange(taps)).ravel()
    yield VectorTensor("ssm_conv1d.weight", (block["kernel"],), (-1, taps), spread)
    yield VectorTensor("ssm_a", (block["decay_log"],), order=heads, change="minus_exp")
    yield VectorTensor("ssm_dt.bias", (block["decay_bias"],), order=heads)
    yield from _norm("ssm_norm", block["norm"])
    yield MatrixTensor("ssm_out.weight", ((Piece(Part(block["o"])),),), columns=rows, run=size)


def _ffn(block: Json, target: Target) -> Iterator[Planned]:
    shared = "output_gate" in block
    end = "_shexp" if shared else ""
    if not shared:
        yield from _norms(block, target.ffn_norm, "post_ffw_norm")
    gate, up, down = feed_forward_parts(block, block["matrices"][0])
    if target.gate_up and gate is not None:
        yield MatrixTensor(f"ffn_up{end}.weight", ((Piece(gate), Piece(up)),))
    else:
        if gate is not None:
            yield MatrixTensor(f"ffn_gate{end}.weight", ((Piece(gate),),))
        yield MatrixTensor(f"ffn_up{end}.weight", ((Piece(up),),))
    yield MatrixTensor(f"ffn_down{end}.weight", ((Piece(down, True),),))
    for which in ("gate", "up", "down"):
        if f"{which}_bias" in block:
            yield VectorTensor(f"ffn_{which}{end}.bias", (block[f"{which}_bias"],))
    if shared:
        flat = ((Piece(Part(block["output_gate"])),),)
        yield MatrixTensor("ffn_gate_inp_shexp.weight", flat, plain=True, flat=True)


def _experts(block: Json, target: Target) -> Iterator[Planned]:
    yield from _norms(block, target.ffn_norm, "post_ffw_norm")
    yield _one("ffn_gate_inp.weight", block["router"], plain=True)
    if "router_bias" in block:
        yield VectorTensor("ffn_gate_inp.bias", (block["router_bias"],))
    if "choice_bias" in block:
        yield VectorTensor("exp_probs_b.bias", (block["choice_bias"],))
    parts = [feed_forward_parts(block, matrix) for matrix in block["matrices"]]
    for at, which in enumerate(("gate", "up", "down")):
        pieces = tuple((Piece(part, which == "down"),) for p in parts if (part := p[at]) is not None)
        if pieces:
            yield MatrixTensor(f"ffn_{which}_exps.weight", pieces, stacked=True)
        if f"{which}_bias" in block:
            yield VectorTensor(f"ffn_{which}_exps.bias", (block[f"{which}_bias"],), (len(parts), -1))


BLOCKS = {
    "attention": _attention,
    "convolution": _convolution,
    "linear_attention": _linear_attention,
    "ffn": _ffn,
    "experts": _experts,
}
