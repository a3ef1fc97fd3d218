"""A checkpoint: a Hugging Face style folder with config.json, safetensors and a tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.checkpoint.gguf import SUFFIX, open_gguf
from edgekit.checkpoint.mxfp4 import unpacked
from edgekit.checkpoint.quantized import unquantized
from edgekit.checkpoint.safetensors import DTYPES, Tensor, read_header
from edgekit.checkpoint.sentence import Sentence, read_sentence
from edgekit.errors import CheckpointError

JSON_LIMIT = 64 << 20
LONGEST_NAME = 200  # characters; file systems take 255 bytes
INDEX = "model.safetensors.index.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt")

# Copied into the bundle when present: what a tokenizer and a chat need, and the config for reference.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "config.json",
)
TEMPLATES = "additional_chat_templates/*.jinja"  # which a tokenizer may have besides


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; tensors are read when asked for.

    Attributes:
        path: the folder, or the GGUF file.
        config: config.json.
        generation: generation_config.json, or empty.
        tensors: every tensor by name.
        identity: SHA-256 over config, headers and file sizes; the same wherever the folder lies.
        fingerprint: the same with modification times; changes when a file is touched.
        files: what a bundle takes along, by path relative to the folder: where it lies, or what it holds.
        sentence: what a sentence-transformers folder says beside; None for other folders.
        pictures: preprocessor_config.json, which says how pictures are prepared, or empty.
    """

    path: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    identity: str
    fingerprint: str
    files: Mapping[str, Path | bytes]
    sentence: Sentence | None = None
    pictures: Mapping[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> bytes:
        """What one of `files` holds."""
        found = self.files[name]
        return found if isinstance(found, bytes) else found.read_bytes()

    def tokenizer_limit(self) -> int | None:
        """Most tokens that the tokenizer says the model takes; None if it says nothing (mostly 1e30)."""
        try:
            config = json.loads(self.file("tokenizer_config.json"))
        except (KeyError, ValueError, RecursionError, OSError):  # the tokenizer's own reader has more to say
            return None
        value = config.get("model_max_length") if isinstance(config, dict) else None
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 24 else None

    def tensor(self, name: str) -> Tensor:
        """A tensor that can be read.

        Raises:
            CheckpointError: missing, or of a dtype that edgekit does not read.
        """
        found = self.tensors.get(name)
        if found is None:
            raise CheckpointError(f"{self.path}: no tensor '{name}'")
        if found.dtype not in DTYPES:
            raise CheckpointError(
                f"{found.path}: tensor '{name}' is {found.dtype}; edgekit reads F32, F16 and BF16 "
                "(load the model with transformers in one of those and save it again)"
            )
        return found


def tokenizer_files(folder: Path) -> list[str]:
    """Paths of the files in a checkpoint that a bundle takes along, relative to its folder."""
    named = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return named + sorted(p.relative_to(folder).as_posix() for p in folder.glob(TEMPLATES) if p.is_file())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a small file.

    Raises:
        CheckpointError: missing, too large, or not a JSON object.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise CheckpointError(f"{path}: larger than {JSON_LIMIT} bytes, which no {path.name} should be")
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return loaded


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a checkpoint folder or a GGUF file, reading headers only.

    Raises:
        CheckpointError: not a checkpoint, pickled weights, or damaged files.
    """
    if path.suffix == SUFFIX and path.is_file():
        return _open_file(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: not a folder and no .gguf file; give the folder that holds config.json")
    sentence = read_sentence(path)
    path = path / sentence.transformer if sentence is not None else path
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path}: no config.json; a checkpoint is a Hugging Face style folder")
    config: Mapping[str, Any] = read_json(path / "config.json")
    generation_path = path / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    digest = hashlib.sha256((path / "config.json").read_bytes())
    times = hashlib.sha256()
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(path):
        found, raw = read_header(file)
        stat = file.stat()
        digest.update(f"{file.name}:{stat.st_size}".encode())
        times.update(f"{stat.st_mtime_ns}".encode())
        digest.update(raw)
        twice = tensors.keys() & found.keys()
        if twice:
            raise CheckpointError(f"{file}: tensor '{min(twice)}' is in two files")
        tensors |= found
    if (path / INDEX).is_file():
        lost = sorted(read_json(path / INDEX)["weight_map"].keys() - tensors.keys())
        if lost:
            raise CheckpointError(f"{path / INDEX}: names tensor '{lost[0]}', which is in no file; download it again")
    digest.update(repr(sentence).encode() if sentence is not None else b"")
    pictures = _picture_settings(path)
    digest.update(json.dumps(pictures, sort_keys=True).encode() if pictures else b"")
    identity = digest.hexdigest()
    plain, ready = unquantized(config, unpacked(tensors))
    files: dict[str, Path | bytes] = {name: path / name for name in tokenizer_files(path)}
    if plain is not config:
        files["config.json"] = json.dumps(plain).encode()
    return Checkpoint(path, plain, generation, ready, identity, identity + times.hexdigest(), files, sentence, pictures)


def _picture_settings(path: Path) -> Mapping[str, Any]:
    """How pictures are prepared, from either of the files that transformers writes; empty if there is none."""
    if (path / PROCESSORS[0]).is_file():
        return read_json(path / PROCESSORS[0])
    whole = read_json(path / PROCESSORS[1]) if (path / PROCESSORS[1]).is_file() else {}
    inner = whole.get("image_processor")
    return inner if isinstance(inner, dict) else {}


def _open_file(path: Path) -> Checkpoint:
    """A GGUF file, or several."""
    opened = open_gguf(path)
    stats = [part.stat() for part in opened.paths]
    sizes = ":".join(str(stat.st_size) for stat in stats)
    identity = hashlib.sha256(f"{opened.header}:{sizes}".encode()).hexdigest()
    fingerprint = identity + ":".join(str(stat.st_mtime_ns) for stat in stats)
    return Checkpoint(path, opened.config, {}, opened.tensors, identity, fingerprint, opened.files)


def _weight_files(path: Path) -> list[Path]:
    if (path / INDEX).is_file():
        weight_map = read_json(path / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{path / INDEX}: no weight_map")
        names = sorted({v if isinstance(v, str) else repr(v) for v in weight_map.values()})
        for name in names:
            # Links are fine (the hub's cache is made of them); names that leave the folder are not.
            if Path(name).name != name or name in ("", ".", "..") or not name.isprintable() or len(name) > LONGEST_NAME:
                name = repr(name[:LONGEST_NAME])
                raise CheckpointError(f"{path / INDEX}: '{name}' is not a plain file name")
            if not (path / name).is_file():
                raise CheckpointError(f"{path / name}: missing, though {INDEX} names it; download it again")
        return [path / name for name in names]
    files = sorted(path.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(f.name for f in path.iterdir() if f.suffix in PICKLES)
    if pickled:
        raise CheckpointError(
            f"{path / pickled[0]}: pickled weights can run code when loaded and are refused; convert them "
            "once with transformers: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(new_folder, safe_serialization=True)"
        )
    raise CheckpointError(f"{path}: no .safetensors file")
