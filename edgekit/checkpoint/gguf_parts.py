"""A GGUF model in several files, NAME-00001-of-00003.gguf and so on: found, and checked to belong together.

The first file has the metadata; `split.no` (from 0) and `split.count` say in each which of how many it is.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from edgekit.checkpoint.gguf_file import GgufFile, read_gguf
from edgekit.errors import CheckpointError

NAMED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
MOST_PARTS = 1000
SHOWN = 3  # missing files that a message names


def read_parts(path: Path) -> list[GgufFile]:
    """The headers of all files of a model, the one with its metadata first.

    Args:
        path: a whole file, or any file of several.

    Raises:
        CheckpointError: a file is missing, damaged, or of another model.
    """
    given = read_gguf(path)
    count = _count(given)
    if count == 1:
        return [given]
    named = NAMED.fullmatch(path.name)
    if named is None or int(named[3]) != count or not 1 <= int(named[2]) <= count:
        raise CheckpointError(
            f"{path}: is one of {count} files of a model and does not have the name of one; call them "
            f"NAME-00001-of-{count:05}.gguf and so on, or join them: llama-gguf-split --merge FIRST OUT"
        )
    paths = [path.with_name(f"{named[1]}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]
    lost = [p.name for p in paths if not p.is_file()]
    if lost:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        missing = ", ".join(lost[:SHOWN]) + more
        raise CheckpointError(f"{path}: the model has {count} files; missing beside it: {missing}; download them")
    files = [given if p == path else read_gguf(p) for p in paths]
    for i, file in enumerate(files):
        if _count(file) != count or file.metadata.get("split.no") != i:
            raise CheckpointError(f"{file.path}: is not file {i + 1} of {count}, as its name says; download it again")
    _check_tensors(files)
    return files


def joined(files: list[GgufFile]) -> GgufFile:
    """The metadata of the first file, the tables of all, and a digest of all."""
    if len(files) == 1:
        return files[0]
    digest = hashlib.sha256("".join(f.digest for f in files).encode()).hexdigest()
    tensors = {name: entry for file in files for name, entry in file.tensors.items()}
    return replace(files[0], tensors=tensors, digest=digest)


def _count(file: GgufFile) -> int:
    count = file.metadata.get("split.count", 1)
    if type(count) is not int or not 0 <= count <= MOST_PARTS:
        raise CheckpointError(f"{file.path}: split.count is {str(count)[:30]!r}, no number of files up to {MOST_PARTS}")
    return max(1, count)


def _check_tensors(files: list[GgufFile]) -> None:
    seen: set[str] = set()
    for file in files:
        twice = seen & file.tensors.keys()
        if twice:
            raise CheckpointError(f"{file.path}: tensor '{min(twice)}' is in two files of the model")
        seen |= file.tensors.keys()
    promised = files[0].metadata.get("split.tensors.count", len(seen))
    if promised != len(seen):
        raise CheckpointError(
            f"{files[0].path}: promises {str(promised)[:30]} tensors, and its {len(files)} files have {len(seen)}; "
            "download them again"
        )
