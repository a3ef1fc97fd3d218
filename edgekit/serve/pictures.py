"""Pictures in requests: data: URLs in, rows of an encoder out, a tile in each round."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgekit.errors import EdgekitError
from edgekit.generate.dialogue import Prompt
from edgekit.pictures.prompt import Seen, seeing_prompt
from edgekit.pictures.sight import Sight
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.serve.errors import bad
from edgekit.sizes import parse_bytes

if TYPE_CHECKING:
    from edgekit.serve.bundles import Bundle

F32 = npt.NDArray[np.float32]
MOST_PICTURES = 32  # of a request
MOST_KEPT = 16  # pictures whose rows are kept, so that a conversation does not encode them again


def picture_from(part: object, where: str) -> bytes:
    """The content of a part of type image_url, whose URL holds it.

    Raises:
        ApiError: it is of another form, or names a picture elsewhere, which is not fetched.
    """
    table = part.get("image_url") if isinstance(part, dict) else None
    url = table.get("url") if isinstance(table, dict) else table
    if not isinstance(url, str) or not url.startswith("data:"):
        raise bad(f"'{where}' must have an image_url with a data: URL; pictures elsewhere are not fetched", where)
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise bad(f"'{where}' has a data: URL that is not base64", where)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad(f"'{where}' has a data: URL that is not base64", where) from error


def with_places(bundle: Bundle, prompt: Prompt, pictures: list[bytes]) -> Prompt:
    """A prompt with the tokens of its pictures, whose rows are not known yet: they are empty, and of the right number.

    Raises:
        ApiError: a picture cannot be read, or the template has no place for it.
    """
    try:
        sight = bundle.sight
        cuts = [sight.cut(data, f"picture {i + 1}") for i, data in enumerate(pictures)]
        empty = [
            Seen(tuple(np.empty((rows, 0), np.float32) for rows in sight.tile_rows(c)), c.rows, c.columns) for c in cuts
        ]
        special = not bundle.tokenizer.has_chat_template
        made = seeing_prompt(prompt.text, empty, bundle.tokenizer, sight.told, special)
    except EdgekitError as error:
        raise bad(str(error), "messages") from error
    return replace(prompt, ids=made.ids, pictures=made.pictures)


class Eyes:
    """The encoder of a loaded bundle: open while somebody looks at pictures, within memory that is set aside for it."""

    def __init__(self, sight: Sight, options: Options, decoder: int) -> None:
        """`options`: of the decoder, with the budget of both; `decoder`: what the decoder needs at least."""
        self._sight, self._options = sight, options
        self._session: Session | None = None
        self._looking, self._decoder, self.peak_bytes = 0, decoder, 0
        self._kept: OrderedDict[bytes, tuple[F32, ...]] = OrderedDict()
        self.least, self._whole = sight.needs(options)
        self.reserved = self.share(parse_bytes(options.ram))

    def share(self, ram: int) -> int:
        """What of a budget is the encoder's; 0 where there is no limit."""
        return max(self.least, min(self._whole, ram // 4, ram - self._decoder)) if ram else 0

    def look(self, pictures: tuple[bytes, ...]) -> Generator[F32, None, None]:
        """The rows of the tiles of pictures, one after the other."""
        self._looking += 1
        try:
            for data in pictures:
                key = hashlib.sha256(data).digest()
                if key in self._kept:
                    self._kept.move_to_end(key)
                    yield from self._kept[key]
                    continue
                tiles = []
                for rows in self._sight.encoded(self._open(), data):
                    tiles.append(rows)
                    yield rows
                self._kept[key] = tuple(tiles)
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        finally:
            self._looking -= 1
            if not self._looking:
                self.close()

    def _open(self) -> Session:
        if self._session is None:
            self._session = Session(self._sight.path, self._sight.options(self._options, self.reserved or None))
        return self._session

    @property
    def memory_bytes(self) -> int:
        """Memory that the encoder holds now."""
        return self._session.stats.memory_bytes if self._session is not None else 0

    @property
    def busy(self) -> bool:
        """Whether the encoder holds memory."""
        return self._session is not None

    def close(self) -> None:
        """Frees the encoder's memory."""
        if self._session is not None:
            self.peak_bytes = max(self.peak_bytes, self._session.stats.peak_memory_bytes)
            self._session.close()
            self._session = None
