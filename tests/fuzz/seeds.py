"""Seeds of the runtime's fuzz targets: python -m tests.fuzz.seeds FOLDER [BUILD].

FOLDER/bundles/NAME are small bundles for EDGEKIT_FUZZ_BUNDLE. Their checksums are zero, as the targets compute them.
FOLDER/seeds/TARGET are inputs; for targets that work on a bundle, FOLDER/seeds/TARGET/NAME.
BUILD is the folder of the targets: fuzz_session itself saves the sessions. Without it there are none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from edgekit.bundle.adapter import adapter_bytes
from edgekit.bundle.layout import MANIFEST, UNITS
from edgekit.bundle.manifest import FIRST_LINE
from edgekit.conversion import convert
from edgekit.recipe import load_recipe
from tests import tiny

CHECKSUM = re.compile(rb'("checksum": ?)"[0-9a-f]{16}"')
RECIPE = """
[[tensors]]
match = "*router"
method = "f16"
[[tensors]]
match = "*0.ffn*"
method = "palette"
bits = 3
[[tensors]]
match = "*1.ffn*"
method = "affine"
bits = 4
group_size = 32
[[tensors]]
match = "*.[qk]"
method = "bf16"
[[tensors]]
match = "*"
method = "affine"
bits = 8
group_size = 32
"""
# Kinds of blocks: mixtures beside dense ones, sliding windows, and neurons chosen by a selector.
BUNDLES = {"qwen3_moe": "auto", "gemma3": "auto", "opt_wide": "split"}
ON_BUNDLES = ("bundle", "session", "adapter")  # targets that work on a bundle
ZERO = "0" * 16


def make(folder: Path, build: Path | None = None, names: tuple[str, ...] = tuple(BUNDLES)) -> None:
    """Makes bundles and seeds in a folder that is new or empty.

    Args:
        folder: where.
        build: folder of the fuzz targets, or None for no sessions.
        names: of `BUNDLES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(RECIPE)
    for target in ("json", "manifest"):
        (folder / "seeds" / target).mkdir(parents=True)
    for name in names:
        bundle = _bundle(folder, name)
        text = (bundle / MANIFEST).read_bytes()
        (folder / "seeds" / "json" / name).write_bytes(text)
        (folder / "seeds" / "manifest" / name).write_bytes(text[FIRST_LINE:])
        for target in ON_BUNDLES:
            (folder / "seeds" / target / name).mkdir(parents=True)
        (folder / "seeds" / "bundle" / name / "whole").write_bytes(text[FIRST_LINE:])
        (folder / "seeds" / "adapter" / name / "whole").write_bytes(_adapter(bundle))
        if build is not None:
            _save_session(bundle, build, folder / "seeds" / "session" / name / "whole")


def _bundle(folder: Path, name: str) -> Path:
    """A small bundle whose checksums are zero."""
    checkpoint, bundle = folder / "checkpoints" / name, folder / "bundles" / name
    checkpoint.parent.mkdir(exist_ok=True)
    bundle.parent.mkdir(exist_ok=True)
    tiny.make(name, checkpoint)
    recipe = load_recipe(folder / "recipe.toml")
    convert(checkpoint, bundle, recipe, layout=BUNDLES[name], unit_size=4096).path.rename(bundle)
    data = json.loads((bundle / MANIFEST).read_bytes())
    del data["checksum"]
    data["provenance"] = {}  # nobody reads it but people, and mutations of it would be wasted
    body = json.dumps(data, indent=1)[1:].lstrip().encode()
    line = f'{{"checksum":"{ZERO}",\n'.encode()
    (bundle / MANIFEST).write_bytes(CHECKSUM.sub(rf'\1"{ZERO}"'.encode(), line + body))
    (bundle / UNITS).write_bytes(bytes((bundle / UNITS).stat().st_size))
    return bundle


def _adapter(bundle: Path) -> bytes:
    """An adapter of rank 2 for the first layer, under checksums that are zero; it is put beside the bundle too."""
    data = json.loads((bundle / MANIFEST).read_bytes())
    entries = []
    for number, matrix in enumerate(data["matrices"]):
        if matrix["name"].startswith("layers.0.") and not matrix["name"].endswith(("router", "up", "down")):
            parts = matrix["parts"]
            for i, part in enumerate(parts):
                inputs, outputs = part["cols"], matrix["rows"]
                if len(parts) > 1 and i + 1 == len(parts):
                    inputs, outputs = outputs, inputs
                shape = ((2, inputs), (2, outputs))
                entries.append((number, i, *(np.full(s, 0.01, np.float32) for s in shape)))
    kinds = {b["kind"] for b in data["model"]["blocks"][:2]}
    taken = [
        e for e in entries if "experts" not in kinds or not data["matrices"][e[0]]["name"].startswith("layers.0.ffn")
    ]
    raw = bytearray(adapter_bytes(0, taken))
    raw[32:40] = raw[56:64] = bytes(8)
    (bundle / "whole.lora").write_bytes(raw)
    return bytes(raw)


def _save_session(bundle: Path, build: Path, out: Path) -> None:
    """The session that the target saves when its input is empty."""
    empty = out.with_name("empty")
    empty.write_bytes(b"")
    environment = {**os.environ, "EDGEKIT_FUZZ_BUNDLE": str(bundle), "EDGEKIT_FUZZ_SAVE": str(out)}
    subprocess.run([build / "fuzz_session", empty], env=environment, check=True, capture_output=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
