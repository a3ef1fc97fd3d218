"""A bundle's encoder of pictures: opened under a budget, used, and closed."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.bundle.layout import MANIFEST, VISION
from edgekit.bundle.weights import BundleWeights
from edgekit.errors import BundleError
from edgekit.pictures.preparing import Cut, cut_of, patches_of, positions_of, stretched, tiles_of
from edgekit.pictures.prompt import F32, Seen
from edgekit.pictures.reading import content_of, picture_size, read_picture
from edgekit.pictures.told import checked
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

Source = str | Path | bytes
MOST_SHAPES = 8  # of tiles, whose positions are kept
MOST_KEPT = 16  # pictures whose rows are kept


@dataclass(frozen=True)
class Looked:
    """What encoding took.

    Attributes:
        pictures: that were encoded, and not known already.
        tiles: of them.
        seconds: of the encoder's passes.
        peak_bytes: most memory that the encoder held.
    """

    pictures: int = 0
    tiles: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0


class Sight:
    """What a bundle sees with. The encoder holds memory only while `look` runs; rows of the last pictures are kept."""

    def __init__(self, bundle: Path, model: Mapping[str, Any]) -> None:
        """For a bundle and its manifest's `model`.

        Raises:
            BundleError: the model sees nothing, or the bundle is damaged.
        """
        told = model.get("pictures")
        if not isinstance(told, Mapping) or not (bundle / VISION / MANIFEST).is_file():
            raise BundleError(
                f"{bundle}: this model sees no pictures; convert one that does (docs/pictures.md names them), "
                "and without --text-only"
            )
        self.told = checked(bundle, told)
        self.path = bundle / VISION
        self.last = Looked()
        self._seen: OrderedDict[bytes, Seen] = OrderedDict()
        self._stretched: dict[tuple[int, int], F32] = {}

    def needs(self, options: Options) -> tuple[int, int]:
        """The least budget that the encoder takes, and the most that it can use."""
        plan = plan_bundle(self.path, self.options(options, None))
        return plan.floor_bytes, plan.budget_bytes

    @property
    def least_batch(self) -> int:
        """Tokens that a pass of the decoder must hold: all of a picture whose rows see each other."""
        return self.told["rows"] if self.told["both_ways"] else 0

    def knows(self, sources: Sequence[Source]) -> bool:
        """Whether all of these pictures were encoded lately."""
        return all(_key(content_of(source)) in self._seen for source in sources)

    def look(self, sources: Sequence[Source], options: Options, ram: str | int | None) -> list[Seen]:
        """Encodes pictures, those that are not known from before.

        Args:
            sources: files, or their content.
            options: of the decoder; threads, kernels and reads are as there.
            ram: most memory of the encoder.

        Raises:
            RuntimeFailure: a source is no picture.
            BudgetError: `ram` is less than the encoder takes.
        """
        contents = [content_of(source) for source in sources]
        names = ["picture" if isinstance(source, bytes) else str(source) for source in sources]
        keys = [_key(content) for content in contents]
        new = {k: (c, n) for k, c, n in zip(keys, contents, names, strict=True) if k not in self._seen}
        self.last = Looked()
        if new:
            with Session(self.path, self.options(options, ram)) as session:
                tiles = 0
                for key, (content, name) in new.items():
                    self._seen[key] = self._encode(session, content, name)
                    tiles += len(self._seen[key].tiles)
                stats = session.stats
                self.last = Looked(len(new), tiles, stats.prompt_seconds, stats.peak_memory_bytes)
        found = []
        for key in keys:
            self._seen.move_to_end(key)
            found.append(self._seen[key])
        while len(self._seen) > max(MOST_KEPT, len(new)):
            self._seen.popitem(last=False)
        return found

    def cut(self, data: bytes, name: str = "picture") -> Cut:
        """How a picture will be cut, by its size alone; raises as `look`."""
        return cut_of(picture_size(data, name), self.told["kind"], self.told["settings"])

    def tile_rows(self, cut: Cut) -> list[int]:
        """Rows of each of its tiles."""
        side = self.told["patch"] * self.told["merge"]
        return [width // side * (height // side) for width, height in cut.tiles]

    def encoded(self, session: Session, data: bytes, name: str = "picture") -> Iterator[F32]:
        """The rows of a picture's tiles, one after the other; `session`: of the encoder."""
        for pixels in tiles_of(read_picture(data, name), self.told["kind"], self.told["settings"]):
            yield self._rows(session, pixels)

    def _encode(self, session: Session, content: bytes, name: str) -> Seen:
        cut = self.cut(content, name)
        return Seen(tuple(self.encoded(session, content, name)), cut.rows, cut.columns)

    def _rows(self, session: Session, pixels: F32) -> F32:
        patch, merge = self.told["patch"], self.told["merge"]
        height, width = pixels.shape[1] // patch, pixels.shape[2] // patch
        if height < merge or width < merge:
            raise BundleError(f"{self.path}: a tile of {pixels.shape[1:]} pixels is less than one row of the encoder")
        height, width = height // merge * merge, width // merge * merge
        patches = patches_of(pixels, patch, merge, self.told.get("channels_last", False))
        if not self.told.get("interpolated", False):
            return session.encode(patches, positions_of(height, width, self.told["grid"], merge))
        if (height, width) not in self._stretched:
            if len(self._stretched) >= MOST_SHAPES:
                self._stretched.clear()
            self._stretched[height, width] = stretched(self._table, height, width, merge)
        return session.encode(patches, None, self._stretched[height, width])

    @cached_property
    def _table(self) -> F32:
        """The table of positions."""
        weights = BundleWeights(self.path)
        try:
            table = weights.matrix(weights.data["model"]["embedding"]["position"])[0]
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise BundleError(f"{self.path}: has no table of positions; convert the checkpoint again") from error
        if len(table) != self.told["grid"] ** 2:
            raise BundleError(f"{self.path}: the table of positions is of another size; convert the checkpoint again")
        return table

    def options(self, options: Options, ram: str | int | None) -> Options:
        """Activations are f32 unless others are asked for: errors of a picture are in all that follows."""
        return Options(
            ram=ram,
            threads=options.threads,
            io=options.io,
            kernels=options.kernels,
            engine=options.engine,
            activations="f32" if options.activations == "auto" else options.activations,
        )


def _key(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
