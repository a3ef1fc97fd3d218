"""Pictures are prepared as the processors of transformers do it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.pictures.preparing import cut_of, patches_of, positions_of, tiles_of
from tests import pictures

SIZES = [(64, 64), (100, 60), (60, 100), (31, 200), (200, 31), (7, 5), (640, 480), (33, 32), (32, 32), (65, 64)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "settings",
    [
        pictures.SPLIT,
        {**pictures.SPLIT, "do_image_splitting": False},
        {**pictures.SPLIT, "do_resize": False},
        {**pictures.SPLIT, "resample": 3, "image_mean": [0.1, 0.5, 0.4], "image_std": [0.3, 0.2, 0.25]},
        {"size": {"longest_edge": 4 * 364}, "max_image_size": {"longest_edge": 364}},
    ],
)
def test_tiles_are_those_of_idefics3(size: tuple[int, int], settings: dict[str, Any]) -> None:
    """The largest difference of a value: 0, as Pillow does the resizing in both."""
    picture = pictures.picture(*size)
    processor = pictures.processor("idefics3", settings)
    want = processor([picture], return_row_col_info=True, return_tensors="np")
    told = json.loads(processor.to_json_string())
    cut, got = cut_of(size, "idefics3", told), list(tiles_of(picture, "idefics3", told))
    assert [[cut.rows], [cut.columns]] == [want["rows"][0], want["cols"][0]]
    pixels = want["pixel_values"][0]
    assert len(got) == len(pixels) == cut.tiles
    assert {tile.shape for tile in got} == {(3, cut.tile[1], cut.tile[0])}
    assert max(np.abs(a - b).max() for a, b in zip(got, pixels, strict=True)) == 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("settings", [{"size": {"height": 32, "width": 32}}, {}, {"do_rescale": False, "resample": 3}])
def test_squares_are_those_of_gemma3(size: tuple[int, int], settings: dict[str, Any]) -> None:
    """The largest difference of a value: 0."""
    picture = pictures.picture(*size)
    processor = pictures.processor("gemma3", settings)
    want = processor([picture], return_tensors="np")["pixel_values"][0]
    (got,) = tiles_of(picture, "gemma3", json.loads(processor.to_json_string()))
    assert np.abs(got - want).max() == 0


def test_patches_are_those_of_a_convolution() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((3, 24, 16)).astype(np.float32)
    kernel = torch.from_numpy(rng.standard_normal((5, 3, 4, 4)).astype(np.float32))
    want = torch.nn.functional.conv2d(torch.from_numpy(pixels)[None], kernel, stride=4)[0]  # [5, 6, 4]
    got = patches_of(pixels, 4, 1) @ kernel.numpy().reshape(5, -1).T
    assert np.abs(got - want.numpy().reshape(5, -1).T).max() <= 1e-5
    squares = patches_of(pixels, 4, 2).reshape(3, 2, 2, 2, 48)  # rows and columns of squares, then those within one
    assert np.array_equal(squares.transpose(0, 2, 1, 3, 4).reshape(24, 48), patches_of(pixels, 4, 1))


def test_positions_are_those_of_idefics3() -> None:
    from transformers.models.idefics3 import modeling_idefics3 as modeling

    config = modeling.Idefics3VisionConfig(**{**pictures.VISION, "hidden_size": 4})
    for grid in (1, 2, 3, 4, 7, 14, 26, 27, 32, 37):
        config.image_size, config.patch_size = grid, 1
        embeddings = modeling.Idefics3VisionEmbeddings(config)
        with torch.no_grad():
            embeddings.patch_embedding.weight.zero_()
            embeddings.patch_embedding.bias.zero_()
            embeddings.position_embedding.weight[:] = torch.arange(grid * grid)[:, None].float()
            for height, width in ((grid, grid), (1, 5), (13, 8), (2 * grid, grid)):
                mask = torch.ones(1, height, width, dtype=torch.bool)
                want = embeddings(torch.zeros(1, 3, height, width), mask)[0, :, 0].numpy()
                got = positions_of(height, width, grid, 1)
                assert np.array_equal(got, want.astype(np.int64)), (grid, height, width)
