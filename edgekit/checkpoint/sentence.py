"""What a sentence-transformers folder says beside its model: the modules behind it, prompts, and the longest text.

Layout: modules.json lists modules with their folders, `1_Pooling/config.json` says how to pool,
sentence_bert_config.json how long a text may be, config_sentence_transformers.json which prompts there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import CheckpointError, UnsupportedModelError

MODULES = "modules.json"
SIZES_FILE = "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
# What of such a folder to download from a hub, as patterns.
FILES = (MODULES, SIZES_FILE, PROMPTS_FILE, "[0-9]_*/*.json")
LIMIT = 1 << 20  # bytes of one of these files
# Members of a pooling folder's config -> our mode.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
NAMES = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
LONGEST_PROMPT = 4096  # characters
MOST_PROMPTS = 256


@dataclass(frozen=True)
class Sentence:
    """How a folder turns texts into vectors.

    Attributes:
        transformer: folder of the model, relative to this one; "" if it is this one.
        pooling: "cls", "mean", "max" or "last"; None where the folder has no such module.
        normalize: whether vectors are divided by their length.
        max_length: most tokens of a text; None if nothing is said.
        lowercase: texts are put in small letters first.
        prompts: name -> what is put before a text.
        default_prompt: the prompt that is used when none is asked for; "" for none.
    """

    transformer: str = ""
    pooling: str | None = None
    normalize: bool = False
    max_length: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""


def read_sentence(path: Path) -> Sentence | None:
    """What a folder says; None if it is no folder of sentence-transformers.

    Raises:
        CheckpointError: one of the files is damaged.
        UnsupportedModelError: a module or a mode that edgekit does not compute.
    """
    if not (path / MODULES).is_file():
        return None
    transformer, pooling, normalize = "", None, False
    for kind, folder in _modules(path):
        if kind == "Transformer":
            transformer = folder
        elif kind == "Pooling":
            pooling = _pooling(path / folder / "config.json")
        elif kind == "Normalize":
            normalize = True
        else:
            raise UnsupportedModelError(
                f"{path / MODULES}: a module is {kind[:80]!r}; edgekit computes Transformer, Pooling and Normalize"
            )
    sizes_folder = path / transformer
    sizes = _object(sizes_folder / SIZES_FILE) if (sizes_folder / SIZES_FILE).is_file() else {}
    length = sizes.get("max_seq_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise CheckpointError(f"{sizes_folder / SIZES_FILE}: max_seq_length is {str(length)[:80]}, which is no number")
    prompts, default = _prompts(path / PROMPTS_FILE) if (path / PROMPTS_FILE).is_file() else ({}, "")
    return Sentence(transformer, pooling, normalize, length, sizes.get("do_lower_case") is True, prompts, default)


def _modules(path: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module, in order."""
    listed = _json(path / MODULES)
    if not isinstance(listed, list) or not all(isinstance(m, dict) for m in listed) or not 0 < len(listed) <= 16:
        raise CheckpointError(f"{path / MODULES}: is not a list of modules")
    made = []
    for module in listed:
        kind, folder = module.get("type"), module.get("path", "")
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise CheckpointError(f"{path / MODULES}: a module has no type or no path")
        if folder and (Path(folder).name != folder or folder in (".", "..") or not folder.isprintable()):
            raise CheckpointError(f"{path / MODULES}: {folder[:80]!r} is not a plain folder name")
        made.append((kind.rsplit(".", 1)[-1], folder))
    return made


def _pooling(file: Path) -> str:
    config = _object(file)
    named = config.get("pooling_mode")
    if named is not None:
        modes = named if isinstance(named, list) else [named]
        found = [NAMES.get(mode) if isinstance(mode, str) else None for mode in modes]
    else:
        modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        found = [FLAGS.get(key) for key in modes]
    if len(found) != 1 or found[0] is None:
        listed = ", ".join(str(m)[:80] for m in modes[:4]) or "no mode"
        raise UnsupportedModelError(
            f"{file}: pooling is {listed}; edgekit computes one of cls, mean, max and lasttoken at a time"
        )
    if config.get("include_prompt", True) is not True:
        raise UnsupportedModelError(f"{file}: include_prompt is not true; edgekit pools the prompt with the text")
    return found[0]


def _prompts(file: Path) -> tuple[dict[str, str], str]:
    config = _object(file)
    prompts = config.get("prompts") or {}
    default = config.get("default_prompt_name")
    good = isinstance(prompts, dict) and len(prompts) <= MOST_PROMPTS and all(_short(t) for t in prompts.values())
    if not good:
        raise CheckpointError(f"{file}: prompts are not texts of at most {LONGEST_PROMPT} characters by name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise CheckpointError(f"{file}: default_prompt_name is {str(default)[:80]!r}, which is no prompt")
    return dict(prompts), default or ""


def _short(text: object) -> bool:
    return isinstance(text, str) and len(text) <= LONGEST_PROMPT


def _object(file: Path) -> dict[str, Any]:
    found = _json(file)
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return found


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > LIMIT:
            raise CheckpointError(f"{file}: larger than {LIMIT} bytes, which no {file.name} should be")
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid JSON") from error
