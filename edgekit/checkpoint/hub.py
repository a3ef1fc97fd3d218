"""Checkpoints by hub id, through huggingface_hub with the revision pinned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgekit.checkpoint.reader import TEMPLATES, TOKENIZER_FILES
from edgekit.checkpoint.sentence import FILES
from edgekit.errors import CheckpointError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint came from; kept in the bundle's provenance."""

    path: Path
    name: str
    revision: str | None = None


def locate(checkpoint: str, revision: str | None = None) -> Source:
    """A local folder as it is, or a hub id (`owner/name`) downloaded or found in the cache.

    Args:
        checkpoint: folder or hub id; a folder that exists wins.
        revision: branch, tag or commit of a hub id; resolved to a commit, which is recorded.

    Raises:
        CheckpointError: neither, or the hub cannot be reached and the cache has no copy.
    """
    folder = Path(checkpoint)
    if folder.exists():
        return Source(folder, folder.resolve().name)
    if not HUB_ID.fullmatch(checkpoint):
        raise CheckpointError(f"{checkpoint}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        path = Path(
            snapshot_download(
                checkpoint,
                revision=revision,
                allow_patterns=["*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES, TEMPLATES, *FILES],
            )
        )
    except GatedRepoError as error:
        raise CheckpointError(f"{checkpoint}: gated; accept its licence on the hub, then 'hf auth login'") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{checkpoint}: has no revision '{revision}'") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{checkpoint}: no such model on the hub (or it is private)") from error
    except Exception as error:  # offline shows as many types: HTTP library, DNS, cache, timeouts
        raise CheckpointError(
            f"{checkpoint}: cannot be downloaded and is not in the cache ({type(error).__name__}); "
            "check the connection, or download it elsewhere and give the folder"
        ) from error
    return Source(path, checkpoint, path.name)
