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
    from edgekit.serve.async_model import AsyncModel

__all__ = ["AsyncModel", "EdgekitError", "TextModel", "__version__", "convert", "load"]


def __getattr__(name: str) -> Any:
    # Imported when first used: `edgekit --help` should not wait for NumPy and the runtime.
    import importlib

    homes = {
        "AsyncModel": "edgekit.serve.async_model",
        "TextModel": "edgekit.generate.loop",
        "convert": "edgekit.conversion",
        "load": "edgekit.generate.loop",
    }
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
