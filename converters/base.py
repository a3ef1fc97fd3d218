"""What every converter shares: options, and how an artifact comes to lie on disk.

An artifact is a folder `BUNDLE/artifacts/KIND/`. It is written beside its place and renamed when it is
whole; `edgekit.json` in it says what it is and which bundle it was made from.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bundle import manifest
from edgekit.bundle.disk import write_file
from edgekit.bundle.layout import MANIFEST
from edgekit.bundle.workspace import check_replaceable, is_empty, output_path, workspace
from edgekit.converters.kinds import KINDS
from edgekit.converters.weights import Json, Weights
from edgekit.errors import BundleError, ConvertError, MissingPackageError
from edgekit.runtime.model import verify_units
from edgekit.version import __version__

ARTIFACTS = "artifacts"
ABOUT = "edgekit.json"
LONGEST_PATH = 200  # characters of a file's path in an artifact
VERSION = 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choices:
    """How to export.

    Attributes:
        context: tokens the artifact is made for; None for the model's maximum up to 4096.
        bits: of weights that a format cannot hold as they are, 4 or 8; 0 for the next that holds the codec's.
        accuracy_level: of ONNX's MatMulNBits (0: f32 arithmetic, 4: activations in int8, ten times as fast); None for 4
            in "onnx" and 0 in the exact variants.
        precision: of Core ML's and Core AI's arithmetic, "f16" or "f32".
        chunk: tokens of one prefill call of a Core ML or Core AI model.
    """

    context: int | None = None
    bits: int = 0
    accuracy_level: int | None = None
    precision: str = "f16"
    chunk: int = 64


@dataclass
class Job:
    """One export under way: what a converter reads and where it writes.

    Attributes:
        about: what the converter adds to the artifact's edgekit.json.
    """

    kind: str
    bundle: Path
    folder: Path
    weights: Weights
    choices: Choices
    about: Json = field(default_factory=dict)

    def copy_tokenizer(self, folder: str = "", leave: str = "") -> None:
        """Copies the bundle's tokenizer into the artifact, or a folder of it; `leave`: a file not to copy."""
        target = self.folder / folder
        target.mkdir(exist_ok=True)
        source = self.bundle / "tokenizer"
        for file in sorted(p for p in source.rglob("*") if p.is_file() and p.name != leave):
            place = target / file.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk."""

    kind: str
    path: Path
    about: Json
    seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())


def parse_kinds(text: str) -> list[str]:
    """Kinds from "onnx,mlx"; "native" (the bundle itself) is always there and dropped.

    Raises:
        ConvertError: an unknown one.
    """
    kinds = [k.strip() for k in text.split(",") if k.strip() and k.strip() != "native"]
    for kind in kinds:
        if kind not in KINDS:
            raise ConvertError(f"target '{kind}' is unknown; known: native, {', '.join(KINDS)}")
    return list(dict.fromkeys(kinds))


def load(kind: str, module: str | None = None) -> Any:
    """The module of a kind, or another one that needs the same extra.

    Raises:
        MissingPackageError: the message names the pip command.
    """
    described = KINDS[kind]
    if described.extra == "coreml":  # it greets with warnings about torch, and draws bars of its own
        logging.getLogger("coremltools").setLevel(logging.ERROR)
        os.environ.setdefault("TQDM_DISABLE", "1")
    return package(f"edgekit.converters.{module or described.module}", described.extra)


def package(name: str, extra: str) -> Any:
    """A module that needs an extra of edgekit.

    Raises:
        MissingPackageError: the message names the pip command.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").startswith("edgekit"):
            raise
        raise MissingPackageError(
            f"this needs the package '{error.name}', which is not installed: pip install 'edgekit[{extra}]'"
        ) from error


def export(
    bundle: str | Path,
    kind: str,
    choices: Choices | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Makes one artifact of a bundle.

    Args:
        bundle: its folder.
        kind: one of `KINDS`.
        choices: context, precision and so on.
        overwrite: replace an artifact of this kind.
        progress: called with (weights read, weights in all).

    Raises:
        ConvertError: the format cannot express the model, a package is missing, the disk is full.
        BundleError: not a bundle, or damaged.
    """
    begin, path = time.monotonic(), Path(bundle)
    place = path / ARTIFACTS / kind
    identity = checksum(path)
    _refuse_readers(path, kind)
    _make_folder(place.parent)
    target = output_path(place)
    _check_target(target, overwrite)
    module = load(kind)
    verify_units(path)  # a damaged weight would go unnoticed into the artifact
    with workspace(target, resumes=False) as space:
        _check_target(target, overwrite)  # another process may have made it since
        space.output.mkdir()
        job = Job(kind, path, space.output, Weights.open(path, progress), choices or Choices())
        refuse_unwritten(job.weights.model, kind)
        module.export(job)
        about = {
            "format": "edgekit-artifact", "version": VERSION, "kind": kind, "edgekit": __version__, "bundle": identity,
            **job.about, "requantized_weights": job.weights.loss.weights,
            "requantized_rms": round(job.weights.loss.relative_rms, 6), "files": _files(space.output),
        }  # fmt: skip
        write_file(space.output / ABOUT, json.dumps(about, indent=1).encode())
        space.place()
    return Artifact(kind, place, about, time.monotonic() - begin)


def refuse_unwritten(model: Json, kind: str) -> None:
    """Refuses what no format writes yet: what Gemma 4's layers have of their own.

    Raises:
        ConvertError: names it.
    """
    found = {"embeddings for each layer"} if any(b["kind"] == "layer_input" for b in model["blocks"]) else set()
    found |= {"keys and values that layers share"} if any("source" in b for b in model["blocks"]) else set()
    found |= {"norms of values"} if any("v_norm" in b for b in model["blocks"]) else set()
    found |= {"scales of layers"} if any("out_scale" in b for b in model["blocks"]) else set()
    if found:
        raise ConvertError(
            f"{kind}: this model has {', '.join(sorted(found))}, which no export writes yet; run the bundle itself"
        )


def _refuse_readers(bundle: Path, kind: str) -> None:
    """Refuses a model that writes no text, unless it is an encoder and the format takes those."""
    model = manifest.read(bundle).data["model"]
    if model.get("output", "logits") == "logits":
        return
    whole = all(not b.get("causal", True) for b in model["blocks"] if b["kind"] not in ("ffn", "experts"))
    if not whole or not KINDS[kind].encoders:
        known = ", ".join(name for name, described in KINDS.items() if described.encoders)
        raise ConvertError(
            f"{kind}: takes no such model, which writes no text; encoders go to {known}, or run the bundle"
        )


def _make_folder(folder: Path) -> None:
    """The folder of a bundle's artifacts."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConvertError(f"{folder}: cannot be made a folder of artifacts: {error.strerror}") from error


def _check_target(target: Path, overwrite: bool) -> None:
    """Refuses to replace anything but an artifact or an empty folder, and that only if asked for."""
    kind = f"what an export made (it has no {ABOUT})"
    check_replaceable(target, overwrite, kind, lambda path: (path / ABOUT).is_file() or is_empty(path))


def _files(folder: Path) -> list[Json]:
    """Every file of an artifact."""
    out = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        out.append({"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest})
    return out


def verify(artifact: Artifact) -> None:
    """Compares every byte with what was written: parsers of other formats may crash on damaged files.

    Raises:
        BundleError: a file differs, is missing or was added.
    """
    found = [f for f in _files(artifact.path) if f["path"] != ABOUT]
    if found != artifact.about.get("files"):
        listed = artifact.about.get("files")
        names = [f["path"] for f in found if not isinstance(listed, list) or f not in listed]
        raise BundleError(
            f"{artifact.path / (names[0] if names else ABOUT)}: is not what was exported; export {artifact.kind} again"
        )


def checksum(bundle: Path) -> str:
    """What tells a bundle's manifest from any other."""
    manifest.read(bundle)
    with (bundle / MANIFEST).open("rb") as file:
        return file.readline().decode().split('"')[3]


def find(bundle: Path) -> list[Artifact]:
    """The artifacts of a bundle.

    Raises:
        BundleError: one that is damaged or newer.
    """
    folder = bundle / ARTIFACTS
    return [read(bundle, kind) for kind in sorted(KINDS) if (folder / kind).is_dir()]


def _listed(about: Json) -> list[tuple[str, int]]:
    """Names and sizes of an artifact's files, as listed; what is malformed is left out, and found by `verify`."""
    files = about.get("files")
    entries = [f for f in files if isinstance(f, dict)] if isinstance(files, list) else []
    return [(f["path"], f["bytes"]) for f in entries if _is_name(f.get("path")) and "bytes" in f]


def _is_name(path: object) -> bool:
    """Whether a path can be one of a file, and be shown in a line."""
    return isinstance(path, str) and path.isprintable() and len(path) <= LONGEST_PATH


def read(bundle: Path, kind: str) -> Artifact:
    """One artifact of a bundle.

    Raises:
        BundleError: missing, damaged, newer, or made from another bundle.
    """
    path = bundle / ARTIFACTS / kind
    again = f"make it with 'edgekit export {bundle} --to {kind} --overwrite'"
    try:
        about = json.loads((path / ABOUT).read_text())
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such artifact; {again}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path / ABOUT}: cannot be read; {again}") from error
    if not isinstance(about, dict) or about.get("format") != "edgekit-artifact" or about.get("kind") != kind:
        raise BundleError(f"{path / ABOUT}: does not describe this artifact; {again}")
    if about.get("version") != VERSION:
        raise BundleError(f"{path}: artifact version {about.get('version')!r}; this edgekit reads version {VERSION}")
    if about.get("bundle") != checksum(bundle):
        raise BundleError(f"{path}: was made from another bundle; {again}")
    if type(about.get("context")) is not int or not 0 < about["context"] < 1 << 31:
        raise BundleError(f"{path / ABOUT}: says no context; {again}")
    for name, size in _listed(about):
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise BundleError(f"{path / name}: is missing or has another size; {again}")
    return Artifact(kind, path, about)
