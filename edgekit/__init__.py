"""edgekit: language models on devices with too little memory.

import edgekit
edgekit.convert("checkpoint", "model.edgekit", recipe="scaled4")
model = edgekit.load("model.edgekit", ram="400M")
for piece in model.generate("Once upon a time", max_tokens=64):
    print(piece.text, end="", flush=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError
from edgekit.version import __version__

if TYPE_CHECKING:
    from edgekit.conversion import convert
    from edgekit.generate.loop import TextModel, load

__all__ = ["EdgekitError", "TextModel", "__version__", "convert", "load"]


def __getattr__(name: str) -> Any:
    # Imported when first used: `edgekit --help` should not wait for NumPy and the runtime.
    import importlib

    homes = {"convert": "edgekit.conversion", "load": "edgekit.generate.loop", "TextModel": "edgekit.generate.loop"}
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
