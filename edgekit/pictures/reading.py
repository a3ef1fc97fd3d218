"""A picture from a file or from bytes; hostile until checked."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import MissingPackageError, RuntimeFailure

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_BYTES = 64 << 20
MOST_PIXELS = 64 << 20  # decoded, 3 bytes each
MOST_RATIO = 100  # of the longer side to the shorter one
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def pillow() -> Any:
    """PIL.Image.

    Raises:
        MissingPackageError: Pillow is not installed.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingPackageError(
            "pictures need Pillow, which is not installed; run: pip install 'edgekit[vision]'"
        ) from error
    return PIL.Image


def picture_size(data: bytes, name: str = "picture") -> tuple[int, int]:
    """Width and height of a picture, without decoding it; raises as `read_picture`."""
    size: tuple[int, int] = _checked(data, name, lambda opened: opened.size)
    return size


def read_picture(data: bytes, name: str = "picture") -> Image:
    """A picture in RGB, the first frame if it has several, its size checked before its pixels are decoded.

    Args:
        data: of a file.
        name: for messages.

    Raises:
        RuntimeFailure: it is no picture, or too large.
        MissingPackageError: Pillow is not installed.
    """
    picture: Image = _checked(data, name, lambda opened: opened.convert("RGB"))
    return picture


def _checked(data: bytes, name: str, take: Callable[[Any], Any]) -> Any:
    library = pillow()
    if len(data) > MOST_BYTES:
        raise RuntimeFailure(f"{name}: more than {MOST_BYTES} bytes are too many for a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here
            opened = library.open(io.BytesIO(data), formats=FORMATS)
            width, height = opened.size
            shorter, longer = sorted((width, height))
            if width * height > MOST_PIXELS or shorter < 1 or longer > MOST_RATIO * shorter:
                raise RuntimeFailure(
                    f"{name}: a picture of {width} by {height} pixels is too large or too long; make it smaller"
                )
            return take(opened)
    except RuntimeFailure:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they meet in a file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, library.UnidentifiedImageError):
            reason = f"none of {', '.join(FORMATS)}"
        raise RuntimeFailure(f"{name}: not a picture that can be read ({reason})") from error


def content_of(source: str | Path | bytes) -> bytes:
    """What a file holds, or what is given as that; no more than a byte beyond the most that a picture may have.

    Raises:
        RuntimeFailure: the file cannot be read.
    """
    if isinstance(source, bytes):
        return source
    try:
        with Path(source).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RuntimeFailure(f"{source}: cannot be read ({reason})") from error
