"""LoRA adapters of PEFT as one file for a bundle: what the runtime adds to products (docs/format.md).

The checkpoint's tensors, which an adapter names, are found in the bundle by its architecture's description: a fused
tensor becomes several matrices, which share the adapter's A and have their own rows of its B.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arch import describe
from edgekit.arch.spec import Bundled, Matrix
from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.bundle.disk import write_file
from edgekit.bundle.layout import MANIFEST
from edgekit.bundle.workspace import check_replaceable, output_path, workspace
from edgekit.checkpoint.lora import Merged, adapted
from edgekit.checkpoint.packed import floats
from edgekit.checkpoint.safetensors import Tensor
from edgekit.codecs.base import F32
from edgekit.errors import BundleError, UnsupportedModelError

MAGIC = b"EKLORA01"
HEADER, ROW, ALIGNMENT = 64, 32, 64


@dataclass(frozen=True)
class Place:
    """A part of a matrix of the bundle, and which outputs of a checkpoint's tensor it has."""

    matrix: int
    part: int
    source: Matrix


@dataclass(frozen=True)
class Packed:
    """What was written: parts of matrices that the adapter changes, and bytes."""

    parts: int
    bytes: int


def write_adapter(bundle: Path, folder: Path, out: Path, *, overwrite: bool = False) -> Packed:
    """Writes an adapter's file for a bundle.

    Args:
        bundle: its folder.
        folder: where PEFT saved the adapter.
        out: the file; it appears when it is whole.
        overwrite: replace an adapter's file.

    Raises:
        EdgekitError: as by `pack_adapter`; or `out` cannot be written.
    """
    target = output_path(out)
    check_replaceable(target, overwrite, "a LoRA adapter of a bundle", is_adapter)
    parts, raw = pack_adapter(bundle, folder)
    with workspace(target, resumes=False) as space:
        write_file(space.output, raw)
        check_replaceable(target, overwrite, "a LoRA adapter of a bundle", is_adapter)  # another process may have
        space.place()
    return Packed(parts, len(raw))


def is_adapter(path: Path) -> bool:
    """Whether a file begins as an adapter's does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def pack_adapter(bundle: Path, folder: Path) -> tuple[int, bytes]:
    """The parts of matrices that an adapter changes, and its file for a bundle.

    Raises:
        BundleError: not a bundle, or one that does not name its checkpoint's tensors.
        CheckpointError: the adapter is damaged, or of another model.
        UnsupportedModelError: it is of a kind that the runtime does not apply.
    """
    data = manifest.read(bundle).data
    shapes = data["provenance"].get("tensors")
    if shapes is None:
        raise BundleError(f"{bundle}: does not name its checkpoint's tensors; convert the checkpoint again")
    base = {name: Tensor(name, bundle, "F32", tuple(shape), 0) for name, shape in shapes.items()}
    changed, _ = adapted(base, folder)
    places = _places(bundle, data)
    entries = []
    for name, tensor in changed.items():
        if not isinstance(tensor, Merged):
            raise UnsupportedModelError(f"{folder}: trains '{name}' whole; merge the adapter with convert --lora")
        for place in places.get(name, []):
            entries.append((place.matrix, place.part, *_factors(tensor, place.source, folder)))
        if name not in places:
            raise UnsupportedModelError(f"{folder}: changes '{name}', which is no matrix of the bundle")
    entries.sort(key=lambda e: e[:2])
    return len(entries), adapter_bytes(_checksum(bundle), entries)


@contextmanager
def adapter_file(bundle: str | Path, lora: str | Path | None) -> Iterator[Path | None]:
    """The file of an adapter for the runtime, which reads it when the model is opened: `lora` itself, or one made of
    PEFT's folder for the time being.

    Raises:
        EdgekitError: as by `pack_adapter`.
    """
    if lora is None or not Path(lora).is_dir():
        yield None if lora is None else Path(lora)
        return
    handle, name = tempfile.mkstemp(suffix=".lora")
    os.close(handle)
    try:
        Path(name).write_bytes(pack_adapter(Path(bundle), Path(lora))[1])
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _checksum(bundle: Path) -> int:
    """The checksum that the manifest begins with."""
    with (bundle / MANIFEST).open("rb") as file:
        return int(file.readline().decode().split('"')[3], 16)


def _places(bundle: Path, data: dict[str, Any]) -> dict[str, list[Place]]:
    """Tensor of the checkpoint -> where its values are in the bundle."""
    config = json.loads((bundle / "tokenizer" / "config.json").read_text())
    shapes = {name: tuple(shape) for name, shape in data["provenance"]["tensors"].items()}
    model = describe(config, shapes)
    numbers = {m["name"]: i for i, m in enumerate(data["matrices"])}
    out: dict[str, list[Place]] = {}

    def add(matrix: Matrix, name: str, part: int = 0) -> None:
        out.setdefault(matrix.tensor, []).append(Place(numbers[name], part, matrix))

    def walk(value: Any, block: dict[str, Any]) -> None:
        if isinstance(value, Bundled):
            if value.order is None:  # else its neurons are not in the checkpoint's order
                _add_bundled(value, block, add)
        elif isinstance(value, Matrix):
            if value.name in numbers:
                add(value, value.name)
        elif isinstance(value, tuple):
            for item in value:
                walk(item, block)
        elif is_dataclass(value):
            for field in fields(value):
                walk(getattr(value, field.name), block)

    for spec, block in zip(model.blocks, data["model"]["blocks"], strict=True):
        walk(spec, block)
    if model.head is not None and model.head != model.embedding:
        walk(model.head, {})
    return out


def _add_bundled(value: Bundled, block: dict[str, Any], add: Any) -> None:
    """Gate, up and down of a block's matrix, wherever the layout put them."""
    count = (2 if block["gated"] else 1) - ("selector" in block)
    parts = [(block["selector"], 0)] if "selector" in block else []
    parts += [(value.name, i) for i in range(count + 1)]
    for matrix, place in zip([*((value.gate,) if block["gated"] else ()), value.up, value.down], parts, strict=True):
        if matrix is not None:
            add(matrix, *place)


def _factors(tensor: Merged, source: Matrix, folder: Path) -> tuple[F32, F32]:
    """A f32 [rank, inputs], and scale * B of a matrix's outputs, f32 [rank, outputs]."""
    if source.index is not None:
        raise UnsupportedModelError(f"{folder}: changes experts that are stacked; merge it with convert --lora")
    _, a, b = tensor.parts
    rows = np.arange(b.shape[0])
    if source.ranges:
        rows = np.concatenate([rows[begin : end : source.step] for begin, end in source.ranges])
    up = floats(b)[rows].T * np.float32(tensor.scale)
    return np.ascontiguousarray(floats(a), "<f4"), np.ascontiguousarray(up, "<f4")


def adapter_bytes(checksum: int, entries: list[tuple[int, int, F32, F32]]) -> bytes:
    """A file: the checksum of a manifest, and (matrix, part, A [rank, inputs], scaled B [rank, outputs]), ascending."""
    at = _aligned(HEADER + ROW * len(entries))
    table, values = b"", b""
    for matrix, part, a, up in entries:
        shape = (a.shape[0], up.shape[1], a.shape[1])
        table += struct.pack("<6IQ", matrix, part, *shape, 0, at + len(values))
        values += a.tobytes() + up.tobytes()
        values += bytes(_aligned(len(values)) - len(values))
    body = table + bytes(at - HEADER - len(table)) + values
    size = HEADER + len(body)
    header = MAGIC + struct.pack("<QQIIQQQ", checksum, size, len(entries), 0, lane64(body), 0, 0)
    return header + struct.pack("<Q", lane64(header)) + body


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
