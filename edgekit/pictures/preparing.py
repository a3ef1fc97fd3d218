"""From a picture to tiles of numbers, as the processors of transformers do it; and from tiles to patches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import BundleError

if TYPE_CHECKING:
    from PIL.Image import Image

F32 = npt.NDArray[np.float32]
MOST_SIDE = 4096  # of a picture that is cut into tiles, as in transformers
MOST_TILES = 1024
MOST_FACTOR = 1e6


@dataclass(frozen=True)
class Cut:
    """How a picture becomes tiles: what its size alone says.

    Attributes:
        sizes: width and height that it is resized to, one after the other.
        tile: width and height of a tile.
        rows: of tiles that it is cut into; 0 if it is one tile.
        columns: likewise.
        whole: width and height of a last tile, behind those it is cut into: the whole picture; None without it.
        afresh: whether that is made of the picture as it came.
    """

    sizes: tuple[tuple[int, int], ...]
    tile: tuple[int, int]
    rows: int = 0
    columns: int = 0
    whole: tuple[int, int] | None = None
    afresh: bool = False

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Width and height of each tile."""
        last = [self.whole] if self.whole is not None else []
        return [self.tile] * (self.rows * self.columns) + last if self.rows else [self.tile]


def cut_of(size: tuple[int, int], kind: str, settings: Mapping[str, Any]) -> Cut:
    """How the processor of a kind cuts a picture of a width and height; `settings`: of preprocessor_config.json.

    Raises:
        BundleError: the settings do not make sense.
    """
    if kind not in KINDS:
        raise BundleError(f"pictures of the kind {kind!r} are unknown to this edgekit; update it")
    return KINDS[kind](size, settings)


def tiles_of(picture: Image, kind: str, settings: Mapping[str, Any]) -> Iterator[F32]:
    """The tiles of a picture, f32 [3, height, width], one after the other; arguments and errors as of `cut_of`."""
    cut, filter_ = cut_of(picture.size, kind, settings), _filter(settings, FILTERS[kind])
    original = picture
    for size in cut.sizes:
        picture = picture.resize(size, filter_)
    width, height = cut.tile
    for r in range(cut.rows):
        for c in range(cut.columns):
            box = (c * width, r * height, (c + 1) * width, (r + 1) * height)
            yield _numbers(picture.crop(box), settings)
    if not cut.rows:
        yield _numbers(picture, settings)
    elif cut.whole is not None:
        yield _numbers((original if cut.afresh else picture).resize(cut.whole, filter_), settings)


def _idefics3(size: tuple[int, int], settings: Mapping[str, Any]) -> Cut:
    """Idefics3 and SmolVLM: the longest edge as the settings say, then up to whole tiles, and the whole in small."""
    side = _size(settings, "max_image_size", 364)
    sizes = []
    if settings.get("do_resize", True):
        sizes.append(_longest(size, _size(settings, "size", 4 * side)))
    if not settings.get("do_image_splitting", True):
        return Cut((*sizes, (side, side)), (side, side))
    sizes.append(_whole_tiles(sizes[-1] if sizes else size, side))
    width, height = sizes[-1]
    if height <= side and width <= side:
        return Cut(tuple(sizes), (side, side))
    rows, columns = height // side, width // side
    if rows * columns > MOST_TILES:
        raise BundleError(f"the processor's settings cut a picture into {rows} by {columns} tiles, which are too many")
    return Cut(tuple(sizes), (side, side), rows, columns, (side, side))


def _gemma3(size: tuple[int, int], settings: Mapping[str, Any]) -> Cut:
    """Gemma 3: one square, whatever the picture's shape."""
    if settings.get("do_pan_and_scan"):
        raise BundleError("the processor cuts long pictures into crops (do_pan_and_scan), which edgekit does not")
    if not settings.get("do_resize", True):
        return Cut((), size)
    table = settings.get("size")
    width, height = (table.get(k) if isinstance(table, Mapping) else 224 for k in ("width", "height"))
    if (
        type(width) is not int
        or type(height) is not int
        or not 1 <= min(width, height) <= max(width, height) <= MOST_SIDE
    ):
        raise BundleError(f"the processor's size is {table!r}, which is no size that edgekit takes")
    return Cut(((width, height),), (width, height))


def _lfm2_vl(size: tuple[int, int], settings: Mapping[str, Any]) -> Cut:
    """LFM2-VL: in the shape it has where that gives few enough rows; else cut into squares, and the whole in small."""
    patch, merge = _whole_number(settings, "encoder_patch_size", 16), _whole_number(settings, "downsample_factor", 2)
    factor, area = patch * merge, (patch * merge) ** 2
    fewest, most = _whole_number(settings, "min_image_tokens", 64), _whole_number(settings, "max_image_tokens", 256)
    (width, height), pixels = size, size[0] * size[1]

    def nearest(side: int, least: int) -> int:
        return max(least, round(side / factor) * factor)

    wide, high = nearest(width, factor), nearest(height, factor)
    if wide * high > most * area:
        shrink = math.sqrt(pixels / (most * area))
        wide, high = (max(factor, math.floor(side / shrink / factor) * factor) for side in size)
    elif wide * high < fewest * area:
        grow = math.sqrt(fewest * area / pixels)
        wide, high = (math.ceil(side * grow / factor) * factor for side in size)
    if max(wide, high) > MOST_SIDE:
        raise BundleError("the processor's min_image_tokens make a picture too large")
    tolerance = settings.get("max_pixels_tolerance", 2.0)
    if not isinstance(tolerance, int | float) or not 0 < tolerance <= MOST_FACTOR:
        raise BundleError(
            f"the processor's max_pixels_tolerance is {tolerance!r}, which is no number that edgekit takes"
        )
    large = nearest(width, patch) * nearest(height, patch) > most * area * tolerance
    low, high_count = _whole_number(settings, "min_tiles", 2), _whole_number(settings, "max_tiles", 10)
    if not settings.get("do_image_splitting", True) or low == high_count == 1 or not large:
        return Cut(((wide, high),), (wide, high))
    side = _whole_number(settings, "tile_size", 512)
    if low > high_count or high_count > 64 or side * high_count > MOST_SIDE * 4:
        raise BundleError(
            f"the processor's tiles are {low} to {high_count} of {side} pixels, which edgekit does not make"
        )
    columns, rows = _closest(size, low, high_count, side)
    if rows * columns == 1:
        return Cut(((side, side),), (side, side))
    whole = (wide, high) if settings.get("use_thumbnail", True) else None
    return Cut(((columns * side, rows * side),), (side, side), rows, columns, whole, True)


def _closest(size: tuple[int, int], low: int, high: int, side: int) -> tuple[int, int]:
    """Columns and rows whose ratio is closest to a picture's; of those that are as close, the last that is not far too
    large for it."""
    width, height = size
    ratios = sorted(
        {(c, r) for c in range(1, high + 1) for r in range(1, high + 1) if low <= c * r <= high},
        key=lambda ratio: ratio[0] * ratio[1],
    )
    best, least = (1, 1), math.inf
    for columns, rows in ratios:
        far = abs(width / height - columns / rows)
        if far < least or (far == least and width * height > 0.5 * side * side * columns * rows):
            best, least = (columns, rows), far
    return best


def _whole_number(settings: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = settings.get(key, otherwise)
    if type(value) is not int or not 1 <= value <= MOST_SIDE:
        raise BundleError(f"the processor's {key} is {value!r}, which is no number that edgekit takes")
    return value


KINDS = {"idefics3": _idefics3, "gemma3": _gemma3, "lfm2_vl": _lfm2_vl}
FILTERS = {"idefics3": 1, "gemma3": 2, "lfm2_vl": 2}  # of Pillow, where the settings name none


def _longest(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height with the longest edge as given, the other one even, and none beyond the most."""
    width, height = size
    ratio = width / height
    if width >= height:
        width, height = longest, int(longest / ratio)
        height += height % 2
    else:
        width, height = int(longest * ratio), longest
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    ratio = width / height
    if width >= height and width > MOST_SIDE:
        width, height = MOST_SIDE, int(MOST_SIDE / ratio)
    elif height > width and height > MOST_SIDE:
        width, height = int(MOST_SIDE * ratio), MOST_SIDE
    return max(width, 1), max(height, 1)


def _whole_tiles(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height as multiples of a tile's side."""
    width, height = size
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / ratio) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * ratio) / side) * side
    return max(width, side), max(height, side)


def _size(settings: Mapping[str, Any], key: str, otherwise: int) -> int:
    """An edge, as {"longest_edge": 512}."""
    table = settings.get(key)
    value = table.get("longest_edge") if isinstance(table, Mapping) else table
    value = otherwise if value is None else value
    if type(value) is not int or not 1 <= value <= MOST_SIDE:
        raise BundleError(f"the processor's {key} is {table!r}, which is no size that edgekit takes")
    return value


def _filter(settings: Mapping[str, Any], otherwise: int) -> Any:
    """How a picture is resized: a number of Pillow's."""
    from PIL.Image import Resampling

    number = settings.get("resample", otherwise)
    if type(number) is not int or number not in list(Resampling):
        raise BundleError(f"the processor's resample is {number!r}, which is no filter")
    return Resampling(number)


def _numbers(picture: Image, settings: Mapping[str, Any]) -> F32:
    """Pixels f32 [3, height, width], rescaled and normalized as the settings say."""
    pixels = np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1)
    out: F32 = pixels.astype(np.float32)
    if settings.get("do_rescale", True):
        factor = settings.get("rescale_factor", 1 / 255)
        if not isinstance(factor, int | float) or not abs(factor) <= MOST_FACTOR:
            raise BundleError(f"the processor's rescale_factor is {factor!r}, which is no number that edgekit takes")
        out = (pixels.astype(np.float64) * factor).astype(np.float32)
    if settings.get("do_normalize", True):
        out = (out - _three(settings, "image_mean")) / _three(settings, "image_std")
    return out


def _three(settings: Mapping[str, Any], key: str) -> F32:
    value = settings.get(key, 0.5)
    three = value if isinstance(value, list) else [value] * 3
    numbers = len(three) == 3 and all(isinstance(x, int | float) and abs(x) <= MOST_FACTOR for x in three)
    if not numbers or (key == "image_std" and min(abs(x) for x in three) < 1e-6):
        raise BundleError(f"the processor's {key} is {value!r}, which is not one number for each colour")
    return np.asarray(three, dtype=np.float32).reshape(3, 1, 1)


def patches_of(pixels: F32, patch: int, merge: int, channels_last: bool = False) -> F32:
    """Patches f32 [count, 3 * patch * patch] of a tile, the squares of merge * merge that become one row side by side,
    row by row, and within a square row by row. `channels_last`: of a patch come the colours of each pixel together."""
    _, height, width = pixels.shape
    rows, columns = height // patch // merge, width // patch // merge
    grid = pixels[:, : rows * merge * patch, : columns * merge * patch]
    grid = grid.reshape(3, rows, merge, patch, columns, merge, patch)
    inner = (3, 6, 0) if channels_last else (0, 3, 6)
    out: F32 = grid.transpose(1, 4, 2, 5, *inner).reshape(-1, 3 * patch * patch)
    return out


def stretched(table: F32, height: int, width: int, merge: int) -> F32:
    """A table of positions f32 [grid * grid, hidden] in another shape, [height * width, hidden] in the order of
    `patches_of`: linear in both directions, and smoothed where it shrinks, as torch does with antialias."""
    grid = math.isqrt(len(table))
    whole = table.reshape(grid, grid, -1).astype(np.float64)
    rows = np.einsum("hg,gwd->hwd", _weights(grid, height), whole)
    out = np.einsum("wg,hgd->hwd", _weights(grid, width), rows)
    squares = out.reshape(height // merge, merge, width // merge, merge, -1)
    made: F32 = squares.transpose(0, 2, 1, 3, 4).reshape(height * width, -1).astype(np.float32)
    return made


def _weights(count: int, wanted: int) -> npt.NDArray[np.float64]:
    """What each of `wanted` places takes of `count`, [wanted, count]."""
    scale = count / wanted
    reach = max(scale, 1.0)
    centers = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centers - reach + 0.5).astype(np.int64), 0)[:, None]
    end = np.minimum((centers + reach + 0.5).astype(np.int64), count)[:, None]
    places = np.arange(count)[None, :]
    out = np.maximum(1 - np.abs((places - centers[:, None] + 0.5) / reach), 0)
    out = np.where((places >= first) & (places < end), out, 0)
    return np.asarray(out / out.sum(axis=1, keepdims=True))


def positions_of(height: int, width: int, grid: int, merge: int) -> npt.NDArray[np.uint32]:
    """Rows of the table of positions, grid by grid, for patches [height, width] in the order of `patches_of`.

    A tile of another size than the encoder was trained on gets the positions of the same parts of a picture, computed
    in f32 as transformers does, so that the same ones are chosen at the borders.
    """
    step = 1 / grid
    borders = (step + np.arange(math.ceil((1.0 - step) / step)) * step).astype(np.float32)

    def bucket(count: int) -> npt.NDArray[np.int64]:
        parts = np.arange(count, dtype=np.float32) * (np.float32(1.0) / np.float32(count))
        return np.asarray(np.searchsorted(borders, np.minimum(parts, np.float32(1.0 - 1e-6)), side="right"))

    whole = bucket(height)[:, None] * grid + bucket(width)[None, :]
    rows, columns = height // merge, width // merge
    squares = whole[: rows * merge, : columns * merge].reshape(rows, merge, columns, merge)
    return squares.transpose(0, 2, 1, 3).reshape(-1).astype(np.uint32)
