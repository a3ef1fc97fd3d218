"""The manifest: a model, a layout and files as JSON, with a checksum in its first line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.arch.spec import (
    Attention,
    Convolution,
    Ffn,
    LayerEmbedding,
    LayerInput,
    LinearAttention,
    Merge,
    Mixer,
    Model,
    Norm,
    Pictures,
    Pooling,
    Predictor,
    Rope,
    Vector,
)
from edgekit.bundle import strict_json
from edgekit.bundle.checksum import lane64
from edgekit.bundle.layout import FLASH, MANIFEST, RESIDENT, UNITS, Layout, MatrixPlan, selector_name
from edgekit.errors import BundleError

FORMAT_VERSION = 1
FIRST_LINE = len('{"checksum":"0123456789abcdef",\n')
LIMIT = 64 << 20  # as the runtime has it

Json = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest; `data` is its JSON object."""

    path: Path
    data: Json


def _name(vector: Vector | None) -> str | None:
    return None if vector is None else vector.name


def _some(table: Json) -> Json:
    """Without the fields that say nothing."""
    return {k: v for k, v in table.items() if v is not None}


def _norm(norm: Norm | None, headed: bool = False) -> Json | None:
    if norm is None:
        return None
    table = {"kind": norm.kind, "eps": norm.eps, "weight": _name(norm.weight), "bias": _name(norm.bias)}
    return _some(table | ({"per_head": norm.per_head} if headed else {}))


def _rope(rope: Rope) -> Json:
    table: Json = {
        "kind": "dynamic" if rope.dynamic else "fixed",
        "dim": rope.dim,
        "inv_freq": rope.inv_freq.name,
        "scale": rope.scale,
        "long_inv_freq": _name(rope.long_inv_freq),
    }
    if rope.switch_length:
        table["switch_length"] = rope.switch_length
    if rope.dynamic:
        table["base"], table["factor"] = rope.dynamic
    return _some(table)


def _attention(b: Attention) -> Json:
    return {
        "kind": "attention",
        "heads": b.heads,
        "kv_heads": b.kv_heads,
        "head_dim": b.head_dim,
        "scale": b.scale,
        "window": b.window,
        "softcap": b.softcap,
        "rope": b.rope,
        "q": b.q.name,
        "k": b.k.name if b.k is not None else None,
        "v": b.v.name if b.v is not None else None,
        "o": b.o.name,
        "q_bias": _name(b.q_bias),
        "k_bias": _name(b.k_bias),
        "v_bias": _name(b.v_bias),
        "o_bias": _name(b.o_bias),
        "q_norm": _norm(b.q_norm, True),
        "k_norm": _norm(b.k_norm, True),
        "sinks": _name(b.sinks),
        "gate": b.gate.name if b.gate is not None else None,
        "gate_bias": _name(b.gate_bias),
        "v_norm": _norm(b.v_norm, True),
        "o_norm": _norm(b.o_norm),
        "source": b.source,
        "causal": None if b.causal else False,
    }


def _layer_input(b: LayerInput) -> Json:
    return {
        "kind": "layer_input",
        "index": b.index,
        "activation": b.activation,
        "gate": b.gate.name,
        "o": b.o.name,
    }


def _layer_embedding(e: LayerEmbedding) -> Json:
    return {
        "count": e.count,
        "dim": e.dim,
        "table": e.table.name,
        "scale": e.scale,
        "project": e.project.name,
        "project_scale": e.project_scale,
        "norm": _norm(e.norm),
        "mix": e.mix,
    }


def _linear_attention(b: LinearAttention) -> Json:
    return {
        "kind": "linear_attention",
        "key_heads": b.key_heads,
        "value_heads": b.value_heads,
        "key_dim": b.key_dim,
        "value_dim": b.value_dim,
        "taps": b.taps,
        "activation": b.activation,
        "q": b.q.name,
        "k": b.k.name,
        "v": b.v.name,
        "gate": b.gate.name,
        "beta": b.beta.name,
        "decay": b.decay.name,
        "o": b.o.name,
        "kernel": b.kernel.name,
        "decay_log": b.decay_log.name,
        "decay_bias": b.decay_bias.name,
        "norm": _norm(b.norm),
    }


def _convolution(b: Convolution) -> Json:
    return {
        "kind": "convolution",
        "taps": b.taps,
        "gate_in": b.gate_in.name,
        "gate_out": b.gate_out.name,
        "value": b.value.name,
        "o": b.o.name,
        "kernel": b.kernel.name,
        "gate_in_bias": _name(b.gate_in_bias),
        "gate_out_bias": _name(b.gate_out_bias),
        "value_bias": _name(b.value_bias),
        "o_bias": _name(b.o_bias),
        "kernel_bias": _name(b.kernel_bias),
    }


def _mixer(b: Mixer) -> Json:
    if isinstance(b, LinearAttention):
        return _linear_attention(b)
    return _attention(b) if isinstance(b, Attention) else _convolution(b)


def _predictor(p: Predictor | None) -> Json | None:
    if p is None:
        return None
    return {"down": p.down.name, "up": p.up.name, "bias": p.bias.name, **dict(p.report)}


def _ffn(b: Ffn, matrices: set[str]) -> Json:
    table: Json = {
        "kind": "ffn" if b.router is None else "experts",
        "size": b.size,
        "activation": b.activation,
        "threshold": b.threshold,
        "gated": b.gated,
        "parallel": b.parallel,
        "matrices": [x.name for x in b.bundles],
        "gate_bias": _name(b.gate_bias),
        "up_bias": _name(b.up_bias),
        "down_bias": _name(b.down_bias),
        "down_norm": _norm(b.down_norm),
    }
    if b.up_relu:
        table["up_relu"] = True
    if b.limit:
        table["limit"] = b.limit
    if b.up_add:
        table["up_add"] = b.up_add
    if b.output_gate is not None:
        table["output_gate"] = b.output_gate.name
    selector = selector_name(b.bundles[0].name)
    if selector in matrices:
        table["selector"] = selector
    table |= {"predictor": _predictor(b.predictor), "cuts": _name(b.cuts)}
    if b.router is not None:
        table |= {"router": b.router.name, "top_k": b.top_k, "normalize": b.normalize}
        table |= {"router_bias": _name(b.router_bias), "choice_bias": _name(b.choice_bias)}
        if b.scoring != "softmax":
            table["scoring"] = b.scoring
        if b.normalize_eps:
            table["normalize_eps"] = b.normalize_eps
        if b.routed_scale != 1:
            table["routed_scale"] = b.routed_scale
        table |= {"reuse": [list(p) for p in b.reuse] or None}
    return table


def _head(model: Model) -> Json | None:
    if model.head is None:
        return None
    head = {
        "matrix": model.head.name,
        "bias": _name(model.head_bias),
        "project": model.head_project.name if model.head_project else None,
        "project_bias": _name(model.head_project_bias),
        "activation": model.head_activation or None,
        "norm": _norm(model.head_norm),
        "softcap": model.head_softcap,
        "scale": model.head_scale if model.head_scale != 1 else None,
    }
    return _some(head)


def _pooling(p: Pooling | None) -> Json | None:
    if p is None:
        return None
    table: Json = {"mode": p.mode, "normalize": p.normalize, "max_length": p.max_length}
    table |= {"prompts": [list(pair) for pair in p.prompts]} if p.prompts else {}
    table |= {"default_prompt": p.default_prompt} if p.default_prompt else {}
    table |= {"lowercase": True} if p.lowercase else {}
    return table | ({"sigmoid": True} if p.sigmoid else {})


def model_json(model: Model, layout: Layout, pictures: Pictures | None = None) -> Json:
    """The `model` member of a manifest; `pictures`: how the model sees."""
    matrices = {m.name for m in layout.matrices}
    blocks = []
    for b in model.blocks:
        table = _ffn(b, matrices) if isinstance(b, Ffn) else _layer_input(b) if isinstance(b, LayerInput) else _mixer(b)
        if isinstance(b, Attention | Ffn | LayerInput):
            table["out_scale"] = _name(b.out_scale)
        if b.pre_relu:
            table["pre_relu"] = True
        if b.residual_scale != 1:
            table["residual_scale"] = b.residual_scale
        norms = {"pre_norm": _norm(b.pre_norm), "post_norm": _norm(b.post_norm), "out_norm": _norm(b.out_norm)}
        blocks.append(_some(table | norms))
    return _some(
        {
            "model_type": model.model_type,
            "output": None if model.output == "logits" else model.output,
            "pooling": _pooling(model.pooling),
            "vocab_size": model.vocab_size or None,
            "hidden_size": model.hidden_size,
            "max_context": model.max_context,
            "bos_token_id": model.bos_token_id,
            "eos_token_ids": list(model.eos_token_ids),
            "embedding": _some(_embedding(model) if model.merge is None else _patches(model)),
            "ropes": [_rope(r) for r in model.ropes],
            "blocks": blocks,
            "final_norm": _norm(model.final_norm),
            "merge": _merge(model.merge),
            "head": _head(model),
            "pictures": _pictures(pictures),
        }
    )


def _embedding(model: Model) -> Json:
    return {
        "matrix": model.embedding.name,
        "scale": model.embedding_scale,
        "project": model.embedding_project.name if model.embedding_project else None,
        "norm": _norm(model.embedding_norm),
        "layers": _layer_embedding(model.layer_embedding) if model.layer_embedding else None,
        "position": model.position.name if model.position else None,
        "position_offset": model.position_offset if model.position else None,
        "types": model.token_types.name if model.token_types else None,
    }


def _patches(model: Model) -> Json:
    """What an encoder of pictures begins with."""
    return {
        "project": model.embedding.name,
        "bias": _name(model.embedding_bias),
        "norm": _norm(model.embedding_norm),
        "position": model.position.name if model.position else None,
    }


def _merge(merge: Merge | None) -> Json | None:
    return _some({"patches": merge.patches, "mean": merge.mean, "norm": _norm(merge.norm)}) if merge else None


def _pictures(p: Pictures | None) -> Json | None:
    if p is None:
        return None
    table: Json = {"kind": p.kind, "token": p.token, "rows": p.rows, "both_ways": p.both_ways}
    table |= {"marks": list(p.marks)} if p.marks else {}
    table |= {name: True for name in ("channels_last", "interpolated") if getattr(p, name)}
    return table | {"patch": p.patch, "merge": p.merge, "grid": p.grid, "settings": dict(p.settings)}


def _matrix(plan: MatrixPlan) -> Json:
    parts = []
    for p in plan.parts:
        part = {"name": p.name, **p.codec.manifest(), "cols": p.cols}
        if p.lut_name is not None:
            part |= {"lut": p.lut_name, "lut_rows": p.lut_rows}
        parts.append(part)
    return {
        "name": plan.name,
        "file": plan.file,
        "offset": plan.offset,
        "rows": plan.rows,
        "rows_per_unit": plan.rows_per_unit,
        "unit_stride": plan.unit_stride,
        "first_unit": plan.first_unit,
        "parts": parts,
    }


def build(
    model: Model,
    layout: Layout,
    provenance: Json,
    vectors_checksum: int,
    units_checksum: int,
    files: list[Json],
    pictures: Pictures | None = None,
) -> bytes:
    """The bytes of manifest.json."""
    body = {
        "format": "edgekit",
        "version": FORMAT_VERSION,
        "provenance": provenance,
        "model": model_json(model, layout, pictures),
        "resident": {"file": RESIDENT, "bytes": layout.resident_bytes},
        "flash": {"file": FLASH, "bytes": layout.flash_bytes},
        "units": {"file": UNITS, "count": layout.unit_count, "checksum": f"{units_checksum:016x}"},
        "vectors": {
            "bytes": layout.vectors_bytes,
            "checksum": f"{vectors_checksum:016x}",
            "list": [{"name": v.name, "dtype": v.dtype, "offset": v.offset, "count": v.count} for v in layout.vectors],
        },
        "matrices": [_matrix(m) for m in layout.matrices],
        "files": files,
    }
    return sign(body)


def sign(body: Json) -> bytes:
    """JSON text with the checksum line in front."""
    text = json.dumps(body, indent=1, ensure_ascii=True, allow_nan=False)
    rest = text[1:].lstrip().encode()  # the first line replaces the opening brace
    return f'{{"checksum":"{lane64(rest):016x}",\n'.encode() + rest


def read(path: Path) -> Manifest:
    """Reads and checks the manifest of a bundle folder.

    Raises:
        BundleError: not a bundle, damaged, or of another version.
    """
    file = path / MANIFEST
    try:
        if file.exists() and not file.is_file():
            raise BundleError(f"{file} is not a regular file; convert the checkpoint again")
        if file.stat().st_size > LIMIT:
            raise BundleError(f"{file}: too large to be a manifest")
        raw = file.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path}: not a bundle (no {MANIFEST}); make one with 'edgekit convert'") from error
    except OSError as error:
        raise BundleError(f"{file}: cannot read: {error.strerror}") from error
    line, rest = raw[:FIRST_LINE], raw[FIRST_LINE:]
    if line != f'{{"checksum":"{lane64(rest):016x}",\n'.encode():
        raise BundleError(f"{file}: does not match its checksum; it is damaged, convert the checkpoint again")
    try:
        data: Json = strict_json.parse(raw)
    except ValueError as error:
        raise BundleError(f"{file}: not valid JSON") from error
    version = data.get("version")
    if data.get("format") != "edgekit" or type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(f"{file}: format version {version!r}; this edgekit reads version {FORMAT_VERSION}")
    return Manifest(path, data)
