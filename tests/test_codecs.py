"""Codecs and solvers against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.codecs import make_codec
from edgekit.codecs.planes import PLANES, pack, unpack
from edgekit.codecs.scaled_palette import SCALES
from edgekit.errors import RecipeError
from edgekit.solvers import encode, solver_for
from edgekit.solvers.base import NOTHING
from edgekit.solvers.kmeans import kmeans_histogram, kmeans_sorted, nearest

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits", PLANES)
def test_packed_codes_come_back(bits: int) -> None:
    codes = RNG.integers(0, 1 << bits, (5, 96), dtype=np.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (5, 96 * bits // 8)
    assert np.array_equal(unpack(packed, bits, 96), codes)


@pytest.mark.parametrize("cols", [32, 60, 64, 200])
@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 64), (4, 32), (4, 128), (5, 256), (6, 32), (8, 32), (8, 64)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_affine_error_is_at_most_half_a_step(cols: int, bits: int, group: int, symmetric: bool) -> None:
    codec = make_codec("affine", bits, group_size=group, symmetric=symmetric)
    w = RNG.standard_normal((7, cols)).astype(np.float32)
    encoded = encode(codec, w)
    assert encoded.records.shape == (7, codec.record_bytes(cols))
    back = codec.decode(encoded.records, cols)
    for begin in range(0, cols, group):
        g, h = w[:, begin : begin + group], back[:, begin : begin + group]
        span = 2 * np.abs(g).max(axis=1) if symmetric else g.max(axis=1) - g.min(axis=1)
        step = span / ((1 << bits) - (0 if symmetric else 1))
        # One extreme of a symmetric group has no code and is cut by up to one step.
        most = step * (1.01 if symmetric else 0.5) + 2e-3 * span
        assert (np.abs(g - h).max(axis=1) <= most).all()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_plain_codecs_round_to_nearest(name: str) -> None:
    codec = make_codec(name)
    w = RNG.standard_normal((3, 50)).astype(np.float32)
    back = codec.decode(encode(codec, w).records, 50)
    eps = {"f32": 0, "f16": 2.0**-11, "bf16": 2.0**-8}[name]
    assert (np.abs(back - w) <= np.abs(w) * eps).all()


@pytest.mark.parametrize("bits", PLANES)
@pytest.mark.parametrize("group", [0, 4, 32])
def test_palette_uses_the_nearest_entry_of_its_table(bits: int, group: int) -> None:
    codec = make_codec("palette", bits, group_size=group)
    w = RNG.standard_normal((10, 70)).astype(np.float32)
    solver = solver_for(codec)
    shared = solver.shared(codec, [w[:6], w[6:]], NOTHING)
    arrays = {**solver.solve(codec, w, shared, NOTHING), **shared}
    records, lut = codec.pack(arrays, 70), arrays["lut"]
    assert lut.shape == (codec.tables(10), 1 << bits)
    back = codec.decode(records, 70, lut)
    for row in range(10):
        table = lut[row // group if group else 0].astype(np.float32)
        best = np.abs(w[row][:, None] - table).min(axis=1)
        assert np.allclose(np.abs(w[row] - back[row]), best)


def test_kmeans_finds_separated_clusters_and_improves_on_quantiles() -> None:
    values = np.sort(np.concatenate([RNG.normal(c, 0.01, 500) for c in (-3, -1, 0, 2)]).astype(np.float32))
    assert np.allclose(np.sort(kmeans_sorted(values, 4)), [-3, -1, 0, 2], atol=0.01)
    normal = np.sort(RNG.standard_normal(50000).astype(np.float32))
    table = np.sort(kmeans_sorted(normal, 16))
    error = np.mean((normal - table[nearest(normal, table)]) ** 2)
    # The optimal 16-level quantizer of a normal distribution leaves 0.009497 of the variance (Max, 1960).
    assert error <= 0.009497 * 1.03
    counts = np.ones(len(normal), dtype=np.int64)
    assert np.allclose(np.sort(kmeans_histogram(normal, counts, 16)), table, atol=1e-3)


def test_constant_and_tiny_groups_survive() -> None:
    for w in (np.zeros((3, 40), np.float32), np.full((3, 40), 2.5, np.float32), np.full((1, 3), -1e-9, np.float32)):
        for method, bits in (("affine", 4), ("affine", 8), ("palette", 4), ("palette", 8), ("scaled_palette", 2)):
            codec = make_codec(method, bits)
            encoded = encode(codec, w)
            near = 0.04 if method == "scaled_palette" else 1e-3  # its scales lie on a grid of twelve to an octave
            assert np.allclose(codec.decode(encoded.records, w.shape[1], encoded.lut), w, atol=1e-7, rtol=near)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("nothing", {}),
        ("affine", {"bits": 7}),
        ("affine", {"group_size": 48}),
        ("palette", {"bits": 7}),
        ("scaled_palette", {"group_size": 48}),
        ("scaled_palette", {"bits": 7}),
        ("f16", {"bits": 8}),
    ],
)
def test_impossible_codecs_are_refused(method: str, options: dict[str, int]) -> None:
    with pytest.raises(RecipeError):
        make_codec(method, **options)


@pytest.mark.parametrize("bits", PLANES)
@pytest.mark.parametrize(("cols", "group"), [(64, 64), (200, 64), (172, 256), (31, 32)])
def test_scaled_palettes_come_back_from_their_records(bits: int, cols: int, group: int) -> None:
    codec = make_codec("scaled_palette", bits, group_size=group)
    w = (RNG.standard_normal((9, cols)) * np.exp(RNG.standard_normal((9, 1)))).astype(np.float32)
    encoded = encode(codec, w)
    assert encoded.records.shape == (9, codec.record_bytes(cols))
    back = codec.unpack(encoded.records, cols)
    assert all(np.array_equal(back[name], encoded.arrays[name]) for name in ("codes", "scale"))
    lut = encoded.lut
    assert lut is not None
    assert np.array_equal(lut * 128, np.rint(lut * 128))
    assert np.abs(lut).max() <= 127 / 128
    scale = SCALES[encoded.arrays["scale"]][:, np.arange(cols) // group]
    want = lut.astype(np.float32)[0][encoded.arrays["codes"]] * scale
    assert np.array_equal(codec.decode(encoded.records, cols, lut), want)


def test_a_scale_is_searched_for_each_group() -> None:
    """Groups of very different ranges keep the relative error that one range would have."""
    codec = make_codec("scaled_palette", 4, group_size=32)
    unit = RNG.standard_normal((64, 128)).astype(np.float32)
    ranges = np.repeat(np.exp2(RNG.integers(-8, 3, (64, 4))).astype(np.float32), 32, axis=1)
    error = []
    for scale in (np.ones_like(ranges), ranges):
        encoded = encode(codec, unit * scale)
        back = codec.decode(encoded.records, 128, encoded.lut)
        error.append(float(np.square(back / scale - unit).mean()))
    assert error[1] <= error[0] * 1.05
    assert error[0] <= 0.0095  # what one optimal table of 16 entries leaves without any scales (Max, 1960)


@pytest.mark.parametrize("cols", [256, 300])
def test_coded_bits_count_codes_scales_and_tables(cols: int) -> None:
    codec = make_codec("scaled_palette", 4, group_size=64)
    groups = -(-cols // 64)
    assert codec.coded_bits(100, cols) == 100 * (4 * cols + 8 * groups) + 16 * 16
    assert make_codec("affine", 4, group_size=32, symmetric=False).coded_bits(10, 64) == 10 * (4 * 64 + 2 * 32)
    assert make_codec("palette", 3, group_size=4).coded_bits(10, 64) == 10 * 3 * 64 + 3 * 8 * 16
