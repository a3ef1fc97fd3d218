"""Solvers with calibration: error feedback must lower what the model sees, never raise it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgekit.codecs import make_codec
from edgekit.codecs.base import Codec
from edgekit.errors import RecipeError
from edgekit.solvers import Statistics, encode, solver_for
from edgekit.solvers.gptq import damped, feedback_factor

F32 = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)
CODECS = [
    ("affine", 4, {"group_size": 32}), ("affine", 3, {"group_size": 64, "symmetric": False}),
    ("palette", 4, {"group_size": 8}), ("palette", 3, {"group_size": 0}),
    ("scaled_palette", 4, {"group_size": 32}), ("scaled_palette", 2, {"group_size": 64}),
]  # fmt: skip


def _correlated(inputs: int) -> F32:
    mix = RNG.standard_normal((inputs, inputs)) * np.exp(RNG.standard_normal(inputs))
    x = RNG.standard_normal((4 * inputs, inputs)) @ mix
    return (x.T @ x / len(x)).astype(np.float32)


def _loss(codec: Codec, w: F32, solver: str | None, statistics: Statistics, h: F32) -> float:
    encoded = encode(codec, w, solver_for(codec, solver), statistics)
    error = (codec.decode(encoded.records, w.shape[1], encoded.lut) - w).astype(np.float64)
    error = error.T if statistics.inputs_are_rows else error
    return float(np.einsum("ri,ij,rj->", error, h.astype(np.float64), error))


@pytest.mark.parametrize(("name", "bits", "options"), CODECS)
@pytest.mark.parametrize("across", [False, True])
def test_error_feedback_beats_rounding(name: str, bits: int, options: dict[str, int], across: bool) -> None:
    codec, h = make_codec(name, bits, **options), _correlated(96)
    w = RNG.standard_normal((40, 96)).astype(np.float32)
    w = np.ascontiguousarray(w.T) if across else w
    plain = _loss(codec, w, None, Statistics(None, across), h)
    assert _loss(codec, w, "gptq", Statistics(h, across), h) < 0.8 * plain


def test_coordinate_descent_ends_where_no_single_code_can_be_better() -> None:
    codec, h = make_codec("scaled_palette", 3, group_size=32), _correlated(32)
    w = RNG.standard_normal((6, 32)).astype(np.float32)
    made = encode(codec, w, solver_for(codec, "gptq"), Statistics(h))
    arrays, damp = dict(made.arrays), damped(h)

    def loss(codes: npt.NDArray[np.uint8], row: int) -> float:
        error = codec.values({**arrays, "codes": codes}, 32).dense()[row].astype(np.float64) - w[row]
        return float(error @ damp @ error)

    worse = 0
    for row in range(6):
        least = loss(arrays["codes"], row)
        for column in range(32):
            for step in (-1, 1):
                codes = arrays["codes"].copy()
                changed = int(codes[row, column]) + step
                if 0 <= changed < 8:
                    codes[row, column] = changed
                    worse += loss(codes, row) >= least * (1 - 1e-4)
    assert worse >= 0.97 * 6 * 2 * 28  # the sweeps stop when few codes change


def test_feedback_factor_is_that_of_the_inverse() -> None:
    h = damped(_correlated(20))
    u = feedback_factor(h).astype(np.float64)
    inverse = np.linalg.inv(h)
    variance = np.square(np.diagonal(np.linalg.cholesky(inverse)))
    assert np.allclose(u.T @ np.diag(variance) @ u, inverse, rtol=1e-3, atol=1e-6 * np.abs(inverse).max())


@pytest.mark.parametrize("h", [np.zeros((64, 64)), np.ones((64, 64)), np.diag([0.0] * 32 + [1.0] * 32)])
def test_singular_hessians_give_finite_weights(h: npt.NDArray[np.float64]) -> None:
    codec = make_codec("scaled_palette", 4)
    w = RNG.standard_normal((5, 64)).astype(np.float32)
    made = encode(codec, w, solver_for(codec, "gptq"), Statistics(h.astype(np.float32)))
    back = codec.decode(made.records, 64, made.lut)
    assert np.isfinite(back).all()
    assert np.abs(back - w).mean() < 0.5


@pytest.mark.parametrize("w", [np.zeros((4, 64)), np.full((4, 64), 3.0), np.eye(4, 64) * 90])
def test_constant_and_sparse_matrices_survive(w: npt.NDArray[np.float64]) -> None:
    codec = make_codec("scaled_palette", 3)
    made = encode(codec, w.astype(np.float32), solver_for(codec, "gptq"), Statistics(_correlated(64)))
    back = codec.decode(made.records, 64, made.lut)
    assert np.isfinite(back).all()
    assert np.abs(back - w).max() <= 0.2 * np.abs(w).max() + 1e-6


def test_solvers_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="'kmeans' cannot choose the values of 'affine'; these can: nearest, gptq"):
        solver_for(make_codec("affine", 4), "kmeans")
    with pytest.raises(RecipeError, match="solver 'magic' is unknown"):
        solver_for(make_codec("affine", 4), "magic")
