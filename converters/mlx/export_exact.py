"""A bundle as an MLX folder that keeps every code, scale and table; `mlx.model` runs it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from edgekit.codecs.forms import AffineForm, LookupForm
from edgekit.codecs.plain import bf16_bits
from edgekit.converters.base import Job
from edgekit.converters.mlx.pack import GROUP, MOST_GROUP, WIDTHS, padded_groups, words
from edgekit.converters.safetensors_file import SafetensorsFile
from edgekit.converters.weights import Part, Weight

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def export(job: Job) -> None:
    """Writes config.json (the manifest's model, and how each weight is stored) and weights.safetensors."""
    file = SafetensorsFile(job.folder / WEIGHTS)
    parts: dict[str, Any] = {}
    for entry in job.weights.bundle.data["matrices"]:
        for index in range(len(entry["parts"])):
            part = Part(entry["name"], index)
            parts[part.label] = _add(file, part.label, job.weights.get(part))
    for vector in job.weights.bundle.data["vectors"]["list"]:
        if vector["dtype"] == "f32":  # tables of palettes are with their weights
            file.add(vector["name"], job.weights.vector(vector["name"]))
    file.close()
    config = {"model_type": "edgekit", "model": job.weights.model, "parts": parts}
    (job.folder / CONFIG).write_text(json.dumps(config, indent=1))
    job.copy_tokenizer(leave=CONFIG)
    job.about["context"] = job.weights.model["max_context"]


def _add(file: SafetensorsFile, name: str, w: Weight) -> dict[str, Any]:
    """Stores a weight; returns how."""
    if isinstance(w, AffineForm):
        codes, scale, bias = padded_groups(w)
        file.add(f"{name}.codes", words(codes, w.bits))
        file.add(f"{name}.scales", scale)
        file.add(f"{name}.biases", bias)
        return {"kind": "affine", "bits": w.bits, "group_size": min(w.group_size, MOST_GROUP), "cols": w.codes.shape[1]}
    if isinstance(w, LookupForm):
        bits = min(b for b in WIDTHS if b >= w.bits)
        cols = w.codes.shape[1]
        file.add(f"{name}.codes", words(np.pad(w.codes, ((0, 0), (0, -cols % GROUP))), bits))
        lut = np.zeros((len(w.lut), 1 << bits), np.float16)
        lut[:, : 1 << w.bits] = w.lut
        file.add(f"{name}.lut", lut)
        about = {"kind": "palette", "bits": bits, "lut_rows": w.lut_rows, "cols": cols}
        if w.scale is None:
            return about
        file.add(f"{name}.scales", w.scale)
        return {**about, "group_size": w.group_size}
    if w.dtype == "bf16":
        file.add(name, bf16_bits(w.values), "bfloat16")
    else:
        file.add(name, w.values.astype(np.float16 if w.dtype == "f16" else np.float32))
    return {"kind": "plain"}
