"""Pictures are prepared as the processors of transformers do it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.pictures.preparing import cut_of, patches_of, positions_of, stretched, tiles_of
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
    assert len(got) == len(pixels) == len(cut.tiles)
    assert [tile.shape for tile in got] == [(3, height, width) for width, height in cut.tiles]
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


def test_stretched_positions_are_those_of_torch() -> None:
    table = np.random.default_rng(0).standard_normal((49, 5)).astype(np.float32)
    whole = torch.from_numpy(table).reshape(7, 7, 5).permute(2, 0, 1)[None]
    for height, width in ((7, 7), (2, 3), (14, 7), (1, 16), (5, 20), (40, 3)):
        want = torch.nn.functional.interpolate(
            whole, size=(height, width), mode="bilinear", align_corners=False, antialias=True
        )
        want = want.reshape(5, height * width).T.numpy()
        assert np.abs(stretched(table, height, width, 1) - want).max() <= 1e-5


@pytest.mark.parametrize("size", [*SIZES, (1024, 768), (300, 900)])
@pytest.mark.parametrize("settings", [{}, pictures.LFM2_VL, {"do_image_splitting": False}, {"use_thumbnail": False}])
def test_tiles_are_those_of_lfm2_vl(size: tuple[int, int], settings: dict[str, Any]) -> None:
    """Pillow and torchvision round a resized pixel differently: by one of 255 levels at most."""
    pytest.importorskip("torchvision")
    from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor

    processor = Lfm2VlImageProcessor(**{k: v for k, v in settings.items() if k != "image_processor_type"})
    told, picture = json.loads(processor.to_json_string()), pictures.picture(*size)
    cut, got = cut_of(size, "lfm2_vl", told), list(tiles_of(picture, "lfm2_vl", told))
    want = processor([picture], return_row_col_info=True, return_tensors="pt")
    assert [[max(1, cut.rows)], [max(1, cut.columns)]] == [want["image_rows"][0], want["image_cols"][0]]
    assert len(got) == len(want["pixel_values"])
    for tile, patches, mask in zip(got, want["pixel_values"], want["pixel_attention_mask"], strict=True):
        own = patches_of(tile, told["encoder_patch_size"], 1, True)
        if len(own) > len(mask):  # long pictures of little rows, which transformers cuts off
            continue
        assert np.abs(own - patches[: int(mask.sum())].numpy()).max() <= 1.01 / 127.5
