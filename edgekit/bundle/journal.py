"""What a conversion has finished, so that a killed one goes on: a line of JSON per matrix.

An entry is believed only if the bytes on disk still have its checksums; then it does not matter
whether the kill, or the power cut, came before or after they were written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from edgekit.bundle.checksum import lane64
from edgekit.bundle.disk import write_file
from edgekit.bundle.layout import RESIDENT, Layout, MatrixPlan


@dataclass(frozen=True)
class Done:
    """A finished matrix: checksums of its units and of its tables."""

    units: list[int]
    luts: dict[str, int] = field(default_factory=dict)


class Journal:
    """The journal of an unfinished bundle in `folder`, beside it; `key` tells one piece of work from another."""

    def __init__(self, folder: Path, layout: Layout, key: str) -> None:
        self.folder, self.layout, self.key = folder, layout, key
        self.path = folder.with_name(folder.name + ".journal.jsonl")

    def begin(self) -> None:
        """Starts an empty journal."""
        write_file(self.path, json.dumps({"key": self.key}).encode() + b"\n")

    def read(self) -> dict[str, Done] | None:
        """Finished matrices whose bytes on disk still match; None if there is no journal of this work."""
        done: dict[str, Done] = {}
        if not self.path.exists() or not self.folder.is_dir():
            return None
        lines = self.path.read_text(errors="replace").split("\n")
        try:
            if json.loads(lines[0]).get("key") != self.key:
                return None
        except (ValueError, AttributeError, RecursionError):
            return None
        plans = {m.name: m for m in self.layout.matrices}
        for line in lines[1:]:
            try:
                entry = json.loads(line)
                name, finished = entry["name"], Done(entry["units"], entry["luts"])
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # the line that was being written when the process died
            if isinstance(name, str) and name in plans and self.on_disk(plans[name], finished):
                done[name] = finished
        return done

    def on_disk(self, plan: MatrixPlan, finished: Done) -> bool:
        """Whether the units and tables of a matrix, read back, have the checksums that they were written with."""
        file, resident = self.folder / plan.file, self.folder / RESIDENT
        names = {p.lut_name for p in plan.parts if p.lut_name is not None}
        whole = isinstance(finished.units, list) and isinstance(finished.luts, dict)  # a torn line may say anything
        if not whole or len(finished.units) != plan.units or finished.luts.keys() != names:
            return False
        if not file.exists() or not resident.exists():
            return False
        with file.open("rb") as units:
            for i, checksum in enumerate(finished.units):
                units.seek(plan.offset + i * plan.unit_stride)
                data = units.read(plan.unit_stride)
                if len(data) != plan.unit_stride or lane64(data) != checksum:
                    return False
        tables = {v.name: v for v in self.layout.vectors if v.source is None}
        with resident.open("rb") as stream:
            for name, checksum in finished.luts.items():
                stream.seek(tables[name].offset)
                if lane64(stream.read(tables[name].bytes)) != checksum:
                    return False
        return True


def append(journal: IO[str], name: str, finished: Done) -> None:
    """Appends an entry. The line feed comes first: a torn line before it must not swallow this one."""
    journal.write("\n" + json.dumps({"name": name, "units": finished.units, "luts": finished.luts}))
    journal.flush()
