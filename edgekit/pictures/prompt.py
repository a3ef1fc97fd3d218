"""What stands for pictures in a text, as the processors of transformers write it; and where in its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import RuntimeFailure
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.pictures import PictureRows

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture that was encoded.

    Attributes:
        tiles: what the decoder reads of each tile, f32 [rows, hidden_size].
        rows: of tiles; 0 for a picture in one tile.
        columns: likewise.
    """

    tiles: tuple[F32, ...]
    rows: int = 0
    columns: int = 0


@dataclass(frozen=True)
class SeeingPrompt:
    """A prompt with pictures: its tokens, and what stands for some of them."""

    ids: tuple[int, ...]
    pictures: tuple[PictureRows, ...]


def placeholder(tokenizer: Tokenizer, told: Mapping[str, Any]) -> str:
    """What stands in a text for a picture before it is known how many tokens it takes; `told`: the manifest's."""
    return token_text(tokenizer, (told.get("marks") or [told["token"]])[0])


def token_text(tokenizer: Tokenizer, number: int) -> str:
    """A token as it stands in a text."""
    found = tokenizer.token(number)
    if found is None:
        raise RuntimeFailure(f"the tokenizer has no token {number}, which stands for pictures; convert again")
    return found


def with_pictures(text: str, seen: Sequence[Seen], tokenizer: Tokenizer, told: Mapping[str, Any]) -> str:
    """A text in which each placeholder has become what the model reads for the picture in its turn; placeholders that
    are missing altogether come first.

    Raises:
        RuntimeFailure: there are more or fewer placeholders than pictures.
    """
    mark = placeholder(tokenizer, told)
    if not mark or told["kind"] not in TEXTS or len(told.get("marks", [])) != MARKS[told["kind"]]:
        raise RuntimeFailure(f"pictures of the kind {told['kind']!r} are unknown to this edgekit; convert again")
    if mark not in text:
        text = mark * len(seen) + text
    pieces = text.split(mark)
    if len(pieces) != len(seen) + 1:
        raise RuntimeFailure(
            f"the prompt has {len(pieces) - 1} places for pictures ({mark}), and there are {len(seen)}"
        )
    tokens = [token_text(tokenizer, number) for number in (told["token"], *told.get("marks", []))]
    texts = [TEXTS[told["kind"]](picture, tokens) for picture in seen]
    return "".join(part for pair in zip(pieces, [*texts, ""], strict=True) for part in pair)


def seeing_prompt(
    text: str, seen: Sequence[Seen], tokenizer: Tokenizer, told: Mapping[str, Any], special: bool = True
) -> SeeingPrompt:
    """The tokens of a text with placeholders, and where the pictures' rows come in.

    Args:
        text: with a placeholder for each picture, or none at all.
        seen: the pictures, in their order.
        tokenizer: of the bundle.
        told: the manifest's `pictures`.
        special: whether the tokenizer adds what it puts around a text.

    Raises:
        RuntimeFailure: placeholders and pictures do not fit.
    """
    ids = tokenizer.encode(with_pictures(text, seen, tokenizer, told), special)
    places = [i for i, token in enumerate(ids) if token == told["token"]]
    tiles = [tile for picture in seen for tile in picture.tiles]
    if len(places) != sum(len(tile) for tile in tiles):
        raise RuntimeFailure("the tokenizer does not keep the tokens that stand for pictures whole; convert again")
    pictures, at = [], 0
    for tile in tiles:
        begin = places[at]
        if places[at + len(tile) - 1] != begin + len(tile) - 1:
            raise RuntimeFailure(
                "the tokenizer does not keep the tokens that stand for pictures together; convert again"
            )
        pictures.append(PictureRows(begin, tile, told["both_ways"]))
        at += len(tile)
    return SeeingPrompt(tuple(ids), tuple(pictures))


def _idefics3(seen: Seen, tokens: Sequence[str]) -> str:
    """Each tile with its row and column, then the whole; or the whole alone."""
    mark, around, text = tokens[0], "<fake_token_around_image>", ""
    for r in range(seen.rows):
        for c in range(seen.columns):
            tile = seen.tiles[r * seen.columns + c]
            text += f"{around}<row_{r + 1}_col_{c + 1}>{mark * len(tile)}"
        text += "\n"
    text += "\n" if seen.rows else ""
    return f"{text}{around}<global-img>{mark * len(seen.tiles[-1])}{around}"


def _gemma3(seen: Seen, tokens: Sequence[str]) -> str:
    row, begin, end = tokens
    return f"\n\n{begin}{row * len(seen.tiles[0])}{end}\n\n"


def _lfm2_vl(seen: Seen, tokens: Sequence[str]) -> str:
    """Each tile with its row and column, then the whole in small; or the whole alone."""
    mark, cut, text = tokens[0], seen.rows * seen.columns, ""
    for i, tile in enumerate(seen.tiles[:cut]):
        text += f"<|img_row_{i // seen.columns + 1}_col_{i % seen.columns + 1}|>{mark * len(tile)}"
    for tile in seen.tiles[cut:]:
        text += ("<|img_thumbnail|>" if cut else "") + mark * len(tile)
    return f"<|image_start|>{text}<|image_end|>"


TEXTS = {"idefics3": _idefics3, "gemma3": _gemma3, "lfm2_vl": _lfm2_vl}
MARKS = {"idefics3": 0, "gemma3": 2, "lfm2_vl": 0}  # tokens around a picture that the manifest names
