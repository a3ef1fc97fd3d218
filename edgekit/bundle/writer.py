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
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arch.spec import Model, Vector
from edgekit.bundle import manifest
from edgekit.bundle.checksum import lane64
from edgekit.bundle.disk import sync, sync_tree, write_all, write_file
from edgekit.bundle.journal import Done, Journal, append
from edgekit.bundle.layout import (
    FLASH,
    MANIFEST,
    RESIDENT,
    UNITS,
    Layout,
    MatrixPlan,
    PartPlan,
    round_up,
    rows_per_step,
)
from edgekit.bundle.source import RowSource, read_vector
from edgekit.checkpoint import Checkpoint
from edgekit.errors import ConvertError
from edgekit.solvers import NOTHING, Statistics

TOKENIZER = "tokenizer"
_DAMAGED = "does not hold what was written to it; check the disk and run the same command again"
SLACK = 16 << 20  # for the manifest, the tokenizer and the filesystem's own needs

Progress = Callable[[int, int], None]  # source bytes done, of all
StatisticsOf = Callable[[PartPlan], Statistics]


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
    ) -> None:
        """`statistics`: what calibration text says of a part's matrix; None without text. `made`: files that come to
        the tokenizer's, by name."""
        self.checkpoint, self.model, self.layout = checkpoint, model, layout
        self.folder, self.provenance = folder, provenance
        self.statistics = statistics or (lambda part: NOTHING)
        self.made = made or {}
        self.luts = {v.name: v for v in layout.vectors if v.source is None}
        self.journal = Journal(folder, layout, key)
        self.resumed = 0
        self.restarted = False  # leftovers of other work were thrown away

    # --- the whole ---------------------------------------------------------------------------

    def run(self, threads: int, progress: Progress) -> None:
        """Writes the bundle.

        Raises:
            OSError: the disk failed or is full; what is done is kept for the next call.
            ConvertError: no room.
            CheckpointError: the source turned out unreadable.
        """
        done = self._prepare()
        self._write_vectors()
        self._encode_all(done, threads, progress)
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
        text = manifest.build(self.model, self.layout, self.provenance, vectors, lane64(checksums), files)
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
        for name in self.checkpoint.files:
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

    def _encode_all(self, done: dict[str, Done], threads: int, progress: Progress) -> None:
        total = sum(_weight(m) for m in self.layout.matrices)
        finished = sum(_weight(m) for m in self.layout.matrices if m.name in done)
        progress(finished, total)
        pending = [m for m in self.layout.matrices if m.name not in done]
        with ThreadPoolExecutor(threads) as pool, self.journal.path.open("a") as journal:
            running: dict[Future[Done], MatrixPlan] = {}
            try:
                while pending or running:
                    while pending and len(running) < threads:
                        plan = pending.pop(0)
                        running[pool.submit(self._encode, plan)] = plan
                    ready, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ready:
                        plan = running.pop(future)
                        done[plan.name] = future.result()
                        append(journal, plan.name, done[plan.name])
                        finished += _weight(plan)
                        progress(finished, total)
            except BaseException:
                for future in running:
                    future.cancel()
                raise

    def _encode(self, plan: MatrixPlan) -> Done:
        """Encodes one matrix and writes it in its place."""
        sources = [RowSource(self.checkpoint, p.source, p.by_column, p.order) for p in plan.parts]
        statistics = [self.statistics(p) for p in plan.parts]
        whole = any(p.solver.whole(p.codec, s) for p, s in zip(plan.parts, statistics, strict=True))
        step = round_up(plan.rows, plan.rows_per_unit) if whole else rows_per_step(plan)
        shared = [
            source.tensor.shared
            if p.rule.kept
            else p.solver.shared(
                p.codec, (source.rows(r, min(r + step, plan.rows)) for r in range(0, plan.rows, step)), s
            )
            for p, source, s in zip(plan.parts, sources, statistics, strict=True)
        ]
        luts: list[list[np.ndarray[Any, Any]]] = [[] for _ in plan.parts]
        checksums: list[int] = []
        with (self.folder / plan.file).open("r+b", buffering=0) as file:
            for begin in range(0, plan.rows, step):
                end = min(begin + step, plan.rows)
                records = []
                for i, (part, source) in enumerate(zip(plan.parts, sources, strict=True)):
                    if part.rule.kept:
                        made = source.arrays(begin, end)
                    else:
                        made = part.solver.solve(part.codec, source.rows(begin, end), shared[i], statistics[i])
                    records.append(part.codec.pack(made, part.cols))
                    if "lut" in made:
                        luts[i].append(made["lut"])
                block = _units(plan, np.concatenate(records, axis=1))
                file.seek(plan.offset + begin // plan.rows_per_unit * plan.unit_stride)
                write_all(file, block.data)
                checksums += [lane64(unit) for unit in block]
        luts = [[s["lut"]] if "lut" in s else tables for s, tables in zip(shared, luts, strict=True)]
        return Done(checksums, self._write_luts(plan.parts, luts))

    def _write_luts(self, parts: tuple[PartPlan, ...], luts: list[list[Any]]) -> dict[str, int]:
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


def _units(plan: MatrixPlan, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rows [n, row_stride] as units [m, unit_stride]; the last may be partly empty."""
    per, stride = plan.rows_per_unit, plan.unit_stride
    units = -(-len(rows) // per)
    out = np.zeros((units, stride), dtype=np.uint8)
    whole = len(rows) // per
    out[:whole, : per * plan.row_stride] = rows[: whole * per].reshape(whole, per * plan.row_stride)
    rest = rows[whole * per :].reshape(-1)
    if len(rest):
        out[whole, : len(rest)] = rest
    return out


def _weight(plan: MatrixPlan) -> int:
    return sum(p.rows * p.cols for p in plan.parts)


def _listed(folder: Path) -> list[Path]:
    """The files that a manifest lists, in order."""
    named = [folder / name for name in (RESIDENT, FLASH, UNITS)]
    return sorted([*named, *(p for p in (folder / TOKENIZER).rglob("*") if p.is_file())])


def file_entry(folder: Path, path: Path) -> dict[str, Any]:
    """What a manifest says of a file in the bundle's folder."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": digest}
