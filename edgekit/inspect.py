"""What is in a bundle or checkpoint, as plain values for people and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.arch.checkpoints import describe_checkpoint, vision_of
from edgekit.bundle import manifest
from edgekit.bundle.keep import keep_recipe
from edgekit.bundle.layout import MANIFEST, VISION, plan_layout
from edgekit.bundle.manifest import model_json
from edgekit.checkpoint import locate, open_checkpoint
from edgekit.checkpoint.gguf import SUFFIX
from edgekit.codecs import codec_of
from edgekit.errors import BundleError
from edgekit.generate.tokenizer import missing_tokenizer
from edgekit.pictures.told import checked
from edgekit.recipe import load_recipe
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options, Plan

Table = dict[str, Any]


def inspect(path: str) -> Table:
    """Describes a bundle (a folder with a manifest) or a checkpoint.

    Raises:
        EdgekitError: neither, or damaged.
    """
    return inspect_bundle(Path(path)) if (Path(path) / MANIFEST).is_file() else inspect_checkpoint(path)


def inspect_bundle(path: Path) -> Table:
    """A bundle: sizes, codecs, blocks, and the memory it needs at least.

    Raises:
        BundleError: not a bundle, damaged, or its manifest lacks what is shown here.
        BudgetError: no memory would do.
    """
    data = manifest.read(path).data
    plan = plan_bundle(path, Options())
    try:
        return _describe_bundle(path, data, plan)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise BundleError(
            f"{path / MANIFEST}: {error!s} is missing or malformed; convert the checkpoint again"
        ) from error


def _describe_bundle(path: Path, data: Table, plan: Plan) -> Table:
    """A bundle whose manifest the runtime accepts; it does not look at everything that is shown."""
    codecs: dict[str, Table] = {}
    weights = coded_bits = 0
    for m in data["matrices"]:
        for part in m["parts"]:
            count = m["rows"] * part["cols"]
            name = codec_name(part)
            entry = codecs.setdefault(name, {"weights": 0, "tensors": 0})
            entry["weights"] += count
            entry["tensors"] += 1
            weights += count
            coded_bits += codec_of(part).coded_bits(m["rows"], part["cols"])
    size = data["resident"]["bytes"] + data["flash"]["bytes"]
    return {
        "kind": "bundle",
        "path": str(path),
        "format_version": data["version"],
        "provenance": _provenance(data["provenance"]),
        "parameters": weights,
        "bytes": size,
        "resident_bytes": data["resident"]["bytes"],
        "flash_bytes": data["flash"]["bytes"],
        "bits_per_weight": round(size * 8 / weights, 3),
        "coded_bits_per_weight": round(coded_bits / weights, 3),
        "units": data["units"]["count"],
        "codecs": codecs,
        "context": plan.context,
        "floor_bytes": plan.floor_bytes,
        "full_bytes": plan.budget_bytes,
        "kv_bytes": plan.kv_bytes,
        **_model(data["model"]),
        **_sight(path, data["model"]),
    }


def _sight(path: Path, model: Table) -> Table:
    """What the bundle sees pictures with, if it does."""
    if "pictures" not in model:
        return {}
    told, plan = checked(path, model["pictures"]), plan_bundle(path / VISION, Options())
    data = manifest.read(path / VISION).data
    size = data["resident"]["bytes"] + data["flash"]["bytes"]
    sees = {"kind": told["kind"], "rows": told["rows"], "both_ways": told["both_ways"], "bytes": size}
    return {"sees": {**sees, "floor_bytes": plan.floor_bytes, "full_bytes": plan.budget_bytes}}


def inspect_checkpoint(path: str) -> Table:
    """A checkpoint: its blocks, its tensors' types, and what the default recipe would make of it."""
    source = locate(path)
    opened = open_checkpoint(source.path)
    model, warnings = describe_checkpoint(opened, vision_of(opened))
    missing = missing_tokenizer(path, opened)
    recipe = keep_recipe(opened, model) if opened.path.suffix == SUFFIX else load_recipe()
    layout = plan_layout(model, recipe)
    dtypes: dict[str, int] = {}
    for t in opened.tensors.values():
        dtypes[t.stored_as] = dtypes.get(t.stored_as, 0) + 1
    weights = sum(p.rows * p.cols for m in layout.matrices for p in m.parts)
    return {
        "kind": "checkpoint",
        "path": str(source.path),
        "parameters": weights,
        "tensors": len(opened.tensors),
        "dtypes": dtypes,
        "default_recipe": recipe.name,
        "default_recipe_bytes": layout.resident_bytes + layout.flash_bytes,
        "warnings": [*([missing] if missing else []), *warnings],
        **_model(model_json(model, layout)),
    }


def codec_name(part: Table) -> str:
    """A codec as one word with its options."""
    name, bits = part["codec"], part["bits"]
    if name == "affine":
        return f"affine{bits} g{part['group_size']}{'' if part['symmetric'] else ' asymmetric'}"
    if name == "scaled_palette":
        return f"{name}{bits} g{part['group_size']}"
    return f"palette{bits} r{part['lut_rows']}" if name == "palette" else str(name)


def _provenance(provenance: Table) -> Table:
    """Where a bundle came from, if its recipe and source are named."""
    if not isinstance(provenance, dict):
        raise TypeError("'provenance'")
    for name in ("recipe", "source"):
        if not isinstance(provenance.get(name), str):
            raise KeyError(f"provenance.{name}")
    return provenance


def _model(model: Table) -> Table:
    if not isinstance(model["model_type"], str):
        raise TypeError("'model_type'")
    keys = ("model_type", "hidden_size", "max_context")
    head = model["head"] if model.get("output") != "embedding" else {"matrix": ""}
    vocab = model["vocab_size"] if model.get("output") != "image" else 0
    made = {
        **{k: model[k] for k in keys},
        "vocab_size": vocab,
        "tied": head["matrix"] == "embedding",
        "blocks": model["blocks"],
    }
    gives: Table = {key: model[key] for key in ("output", "pooling") if key in model}
    return {**made, **gives}
