"""The only writer of bundles.

Every place is known before the first weight is read, so tensors are encoded in any order and in
parallel, each written where it belongs. A journal beside the files tells which are done, with their
checksums: a killed conversion goes on from there, after comparing what is on disk. In the end everything
is read back and compared with what was written; the caller then gives the folder its final name.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgekit.arch.spec import Model, Pictures, Vector
from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.bundle.disk import sync, sync_tree, write_all, write_file
from edgekit.bundle.encoding import EncodeJob, Tables, Units, encode_job, encoded
from edgekit.bundle.journal import Done, Journal, append
from edgekit.bundle.layout import (
    FLASH,
    MANIFEST,
    RESIDENT,
    UNITS,
    VISION,
    Layout,
    MatrixPlan,
    PartPlan,
)
from edgekit.bundle.source import read_vector
from edgekit.checkpoint import Checkpoint
from edgekit.errors import ConvertError
from edgekit.jobs import Executor
from edgekit.solvers import NOTHING, Statistics

TOKENIZER = "tokenizer"
_DAMAGED = "does not hold what was written to it; check the disk and run the same command again"
SLACK = 16 << 20  # for the manifest, the tokenizer and the filesystem's own needs

Progress = Callable[[int, int], None]  # source bytes done, of all
StatisticsOf = Callable[[PartPlan], Statistics]


class Inner(Protocol):
    """A bundle inside another: an encoder of pictures."""

    @property
    def pictures(self) -> Pictures: ...

    def write(self, folder: Path, executor: Executor) -> None:
        """Writes it, as `Writer.run`; called again, it goes on."""


class Writer:
    """Writes one bundle into `folder`, which nobody else may touch meanwhile; a second call resumes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        model: Model,
        layout: Layout,
        folder: Path,
        provenance: dict[str, Any],
        key: str,
        statistics: StatisticsOf | None = None,
        made: Mapping[str, bytes] | None = None,
        inner: Inner | None = None,
        files: Iterable[str] | None = None,
    ) -> None:
        """`statistics`: what calibration text says of a part's matrix; None without text. `made`: files that come to
        the tokenizer's, by name. `inner`: a bundle inside this one. `files`: of the checkpoint's, those to take along;
        None for all."""
        self.checkpoint, self.model, self.layout = checkpoint, model, layout
        self.folder, self.provenance = folder, provenance
        self.statistics = statistics or (lambda part: NOTHING)
        self.made = made or {}
        self.inner = inner
        self.files = list(checkpoint.files if files is None else files)
        self.luts = {v.name: v for v in layout.vectors if v.source is None}
        self.journal = Journal(folder, layout, key)
        self.resumed = 0
        self.restarted = False  # leftovers of other work were thrown away

    # --- the whole ---------------------------------------------------------------------------

    def run(self, executor: Executor, progress: Progress) -> None:
        """Writes the bundle.

        Raises:
            OSError: the disk failed or is full; what is done is kept for the next call.
            ConvertError: no room.
            CheckpointError: the source turned out unreadable.
        """
        done = self._prepare()
        self._write_vectors()
        self._encode_all(done, executor, progress)
        if self.inner is not None:
            self.inner.write(self.folder / VISION, executor)
        self._finish(done)

    def _prepare(self) -> dict[str, Done]:
        done = self.journal.read()
        if done is None:  # of another source, recipe or version: not mixed with this one
            self.restarted = self.folder.exists()
            if self.restarted:
                shutil.rmtree(self.folder)
            self.folder.mkdir()
            self.journal.begin()
            done = {}
        self.resumed = len(done)
        need = 0
        for name, size in ((RESIDENT, self.layout.resident_bytes), (FLASH, self.layout.flash_bytes)):
            path = self.folder / name
            held = path.stat().st_blocks * 512 if path.exists() else 0
            need += max(0, size - held)
        free = shutil.disk_usage(self.folder).free
        if need + SLACK > free:
            raise ConvertError(
                f"{self.folder}: needs {need + SLACK} bytes of disk space but {free} are free; "
                "free some, choose fewer bits, or write to another disk"
            )
        for name, size in ((RESIDENT, self.layout.resident_bytes), (FLASH, self.layout.flash_bytes)):
            with (self.folder / name).open("ab") as file:
                file.truncate(size)
        return done

    def _finish(self, done: dict[str, Done]) -> None:
        checksums = np.array([c for m in self.layout.matrices for c in done[m.name].units], dtype="<u8").tobytes()
        write_file(self.folder / UNITS, checksums)
        self._copy_tokenizer()
        vectors = self._verify(done)
        files = [file_entry(self.folder, p) for p in _listed(self.folder)]
        pictures = None if self.inner is None else self.inner.pictures
        text = manifest.build(self.model, self.layout, self.provenance, vectors, lane64(checksums), files, pictures)
        write_file(self.folder / MANIFEST, text)
        self.journal.path.unlink()
        sync(self.folder)

    def _verify(self, done: dict[str, Done]) -> int:
        """Reads everything back from the disk and compares; returns the checksum of the vectors."""
        sync_tree(self.folder)
        for plan in self.layout.matrices:
            if not self.journal.on_disk(plan, done[plan.name]):
                raise OSError(errno.EIO, _DAMAGED, str(self.folder / plan.file))
        with (self.folder / RESIDENT).open("rb") as file:
            raw = file.read(self.layout.vectors_bytes)
        for v in self.layout.vectors:
            if v.source is not None and raw[v.offset : v.offset + v.bytes] != _vector_bytes(self.checkpoint, v.source):
                raise OSError(errno.EIO, _DAMAGED, str(self.folder / RESIDENT))
        for name, size in ((RESIDENT, self.layout.resident_bytes), (FLASH, self.layout.flash_bytes)):
            if (self.folder / name).stat().st_size != size:
                raise OSError(errno.EIO, _DAMAGED, str(self.folder / name))
        return lane64(raw)

    def _copy_tokenizer(self) -> None:
        folder = self.folder / TOKENIZER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in self.files:
            (folder / name).parent.mkdir(exist_ok=True)
            write_file(folder / name, self.checkpoint.file(name))
        for name, content in self.made.items():
            write_file(folder / name, content)

    # --- tensors -----------------------------------------------------------------------------

    def _write_vectors(self) -> None:
        with (self.folder / RESIDENT).open("r+b") as file:
            for v in self.layout.vectors:
                if v.source is not None:
                    file.seek(v.offset)
                    write_all(file, _vector_bytes(self.checkpoint, v.source))

    def _encode_all(self, done: dict[str, Done], executor: Executor, progress: Progress) -> None:
        total = sum(_weight(m) for m in self.layout.matrices)
        finished = sum(_weight(m) for m in self.layout.matrices if m.name in done)
        progress(finished, total)
        pending = [m for m in self.layout.matrices if m.name not in done]
        work = executor.run(pending, self._job, encoded, self._write)
        with self.journal.path.open("a") as journal, closing(work):
            for plan, made in work:
                done[plan.name] = made
                append(journal, plan.name, made)
                finished += _weight(plan)
                progress(finished, total)

    def _job(self, plan: MatrixPlan) -> EncodeJob:
        return encode_job(self.checkpoint, plan, [self.statistics(p) for p in plan.parts])

    def _write(self, plan: MatrixPlan, pieces: Iterator[Units | Tables]) -> Done:
        """Writes one encoded matrix in its place."""
        checksums: list[int] = []
        sums: dict[str, int] = {}
        with (self.folder / plan.file).open("r+b", buffering=0) as file:
            for piece in pieces:
                if isinstance(piece, Tables):
                    sums = self._write_luts(plan.parts, piece.luts)
                    continue
                file.seek(plan.offset + piece.first * plan.unit_stride)
                write_all(file, piece.block.data)
                checksums += [lane64(unit) for unit in piece.block]
        return Done(checksums, sums)

    def _write_luts(self, parts: tuple[PartPlan, ...], luts: tuple[list[Any], ...]) -> dict[str, int]:
        sums = {}
        with (self.folder / RESIDENT).open("r+b") as file:
            for part, tables in zip(parts, luts, strict=True):
                if part.lut_name is not None:
                    raw = np.concatenate(tables).astype("<f2").tobytes()
                    file.seek(self.luts[part.lut_name].offset)
                    write_all(file, raw)
                    sums[part.lut_name] = lane64(raw)
        return sums


def _vector_bytes(checkpoint: Checkpoint, vector: Vector) -> bytes:
    return read_vector(checkpoint, vector).astype("<f4").tobytes()


def _weight(plan: MatrixPlan) -> int:
    return sum(p.rows * p.cols for p in plan.parts)


def _listed(folder: Path) -> list[Path]:
    """The files that a manifest lists, in order."""
    named = [folder / name for name in (RESIDENT, FLASH, UNITS)]
    inner = [p for name in (TOKENIZER, VISION) for p in (folder / name).rglob("*") if p.is_file()]
    return sorted([*named, *inner])


def file_entry(folder: Path, path: Path) -> dict[str, Any]:
    """What a manifest says of a file in the bundle's folder."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest}
