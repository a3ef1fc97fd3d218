"""The search for trellis codes against a plain NumPy one, and what its passes promise."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from edgekit.codecs.bitshift import UNIT, states_of, values_of
from edgekit.errors import EdgekitError
from edgekit.runtime.trellis import Factor, TrellisRows, factor, search_order, search_pass

F32 = npt.NDArray[np.float32]
SCALE = 130  # 2^((130 - 176) / 12): weights of about 0.04


def scale_of(code: int) -> np.float32:
    return np.float32(2.0 ** ((code - 176) / 12))


def gaussian(rows: int, cols: int, seed: int = 0) -> F32:
    return (np.random.default_rng(seed).standard_normal((rows, cols)) * 0.04).astype(np.float32)


def hessian(cols: int, seed: int = 1) -> npt.NDArray[np.float64]:
    x = np.random.default_rng(seed).standard_normal((3 * cols, cols)) @ np.random.default_rng(2).standard_normal(
        (cols, cols)
    )
    return x.T @ x / len(x) + 0.1 * np.eye(cols)


def decoded(rows: TrellisRows, bits: int, state_bits: int) -> F32:
    values = values_of(states_of(rows.codes, bits, state_bits))
    return np.stack([scale_of(int(s)) * UNIT * v for s, v in zip(rows.scales, values, strict=True)])


def oracle_cost(target: F32, bits: int, state_bits: int, ends: int | None, columns: Factor) -> float:
    """The cost of the best path when every path carries all of its own errors; in f64, state by state.

    target f32 [cols] in the order of the search.
    """
    states = 1 << state_bits
    value = scale_of(SCALE).astype(np.float64) * UNIT * values_of(np.arange(states, dtype=np.uint32))
    older = np.arange(states) >> bits
    f = columns.feedback.astype(np.float64)
    error = target[0] - value
    cost = columns.pivots[0] * error**2
    if ends is not None:
        cost[older != ends] = np.inf
    past = error[:, None]  # [states, columns so far]
    for i in range(1, len(target)):
        ways = older[:, None] | np.arange(1 << bits) << (state_bits - bits)  # [states, ways]
        wanted = target[i] + past @ f[i, :i]
        costs = cost[ways] + columns.pivots[i] * (wanted[ways] - value[:, None]) ** 2
        pick = costs.argmin(axis=1)
        before = ways[np.arange(states), pick]
        cost = costs[np.arange(states), pick]
        past = np.concatenate([past[before], (target[i] - value)[:, None]], axis=1)
    if ends is not None:
        cost[(np.arange(states) & (states >> bits) - 1) != ends] = np.inf
    return float(cost.min())


def flat(cols: int, begin: int = 0) -> Factor:
    return Factor(begin, np.zeros((cols, cols), np.float32), np.ones(cols, np.float32))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("state_bits", [12, 13])
@pytest.mark.parametrize("kind", ["no Hessian", "flat", "feedback"])
def test_the_search_costs_what_the_plain_one_finds(bits: int, state_bits: int, kind: str) -> None:
    weights = gaussian(2, 32, seed=bits)
    rows = TrellisRows.begin(weights, np.full(2, SCALE))
    columns = factor(hessian(32), 5) if kind == "feedback" else flat(32, 5)
    rows.codes[:] = np.random.default_rng(3).integers(0, 1 << bits, rows.codes.shape)
    ends = states_of(rows.codes, bits, state_bits)[:, 5] & ((1 << (state_bits - bits)) - 1)
    order = search_order(32, 5)
    want = [oracle_cost(w[order], bits, state_bits, int(e), columns) for w, e in zip(weights, ends, strict=True)]
    given = None if kind == "no Hessian" else columns
    got = search_pass(rows, bits, state_bits, 5, given, history=64, scale_steps=(0,))
    # The pass then also tries the neighbouring scales with the path that it found.
    assert got <= sum(want) * (1 + 1e-4)
    kept = np.array_equal(rows.scales, np.full(2, SCALE))
    assert not kept or got == pytest.approx(sum(want), rel=1e-4)


def test_errors_and_cost_are_those_of_the_codes() -> None:
    weights = gaussian(5, 64)
    rows = TrellisRows.begin(weights, np.full(5, SCALE))
    columns = factor(hessian(64), 0)
    search_pass(rows, 3, 12, 32, factor(hessian(64), 32), free_ends=True)
    got = search_pass(rows, 3, 12, 0, columns, scale_steps=(-2, 0, 2))
    np.testing.assert_allclose(rows.errors, weights - decoded(rows, 3, 12), atol=1e-7)
    order = search_order(64, 0)
    e = rows.errors[:, order].astype(np.float64)
    lower = columns.feedback + np.eye(64)
    assert got == pytest.approx(float((columns.pivots * (e @ lower.T) ** 2).sum()), rel=1e-3)


@pytest.mark.parametrize(("bits", "most"), [(4, 0.0055), (3, 0.0205), (2, 0.0760)])
def test_gaussian_rows_come_close_to_the_rate_distortion_bound(bits: int, most: float) -> None:
    """The bound is 4^-bits of the variance: 0.0039, 0.0156, 0.0625."""
    weights = gaussian(8, 256)
    rows = TrellisRows.begin(weights, np.full(8, {4: 134, 3: 133, 2: 132}[bits]))
    search_pass(rows, bits, 12, 128, free_ends=True)
    search_pass(rows, bits, 12, 0, scale_steps=(-1, 1))
    assert float((rows.errors**2).mean() / (weights**2).mean()) < most


def test_passes_that_keep_the_better_never_cost_more() -> None:
    rows = TrellisRows.begin(gaussian(6, 64), np.full(6, SCALE))
    h = hessian(64)
    between = np.full((6, 6), 0.1, np.float32)
    search_pass(rows, 2, 12, 32, factor(h, 32), free_ends=True)
    search_pass(rows, 2, 12, 0, factor(h, 0))

    def cost() -> float:
        e = rows.errors.astype(np.float64)
        return float(
            np.einsum("ri,ij,rj->", e, h, e)
            + 0.1 * (np.einsum("ri,ij,sj->", e, h, e) - np.einsum("ri,ij,rj->", e, h, e))
        )

    costs = [cost()]
    for begin in (17, 40, 3):
        search_pass(rows, 2, 12, begin, factor(h, begin), between, keep_better=True)
        costs.append(cost())
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in itertools.pairwise(costs))
    assert costs[-1] < costs[0]


def hessian_error(history: int, feedback: bool) -> float:
    h, weights = hessian(64), gaussian(6, 64)
    rows = TrellisRows.begin(weights, np.full(6, SCALE))
    search_pass(rows, 3, 12, 32, factor(h, 32) if feedback else None, free_ends=True, history=history)
    search_pass(rows, 3, 12, 0, factor(h, 0) if feedback else None, history=history)
    e = rows.errors.astype(np.float64)
    return float(np.einsum("ri,ij,rj->", e, h, e))


@pytest.mark.parametrize(("history", "most"), [(16, 0.85), (32, 0.7), (64, 0.7)])
def test_feedback_lowers_the_hessian_error(history: int, most: float) -> None:
    """Short histories too: paths that disagree about what is forgotten would make it twice as large instead."""
    assert hessian_error(history, feedback=True) < most * hessian_error(history, feedback=False)


def test_threads_do_not_change_the_result() -> None:
    made = []
    for threads in (1, 3):
        rows = TrellisRows.begin(gaussian(20, 64), np.full(20, SCALE))
        search_pass(rows, 4, 12, 32, factor(hessian(64), 32), free_ends=True, threads=threads)
        search_pass(rows, 4, 12, 0, factor(hessian(64), 0), threads=threads, scale_steps=(-1, 0, 1))
        made.append(rows)
    np.testing.assert_array_equal(made[0].codes, made[1].codes)
    np.testing.assert_array_equal(made[0].scales, made[1].scales)


def test_constant_and_zero_rows_stay_finite() -> None:
    weights = np.stack([np.zeros(32), np.full(32, 0.3), np.full(32, 1e6)]).astype(np.float32)
    rows = TrellisRows.begin(weights, np.array([0, 170, 255], np.uint8))
    search_pass(rows, 2, 12, 16, free_ends=True)
    search_pass(rows, 2, 12, 0)
    assert np.isfinite(rows.errors).all()
    assert (rows.errors[0] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    weights = gaussian(2, 32)
    weights[1, 3] = bad
    with pytest.raises(EdgekitError, match="finite"):
        search_pass(TrellisRows.begin(weights, np.full(2, SCALE)), 4, 12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 5}, "bits must be"),
        ({"state_bits": 17}, "state_bits"),
        ({"begin": 32}, "begin"),
        ({"history": 24}, "history"),
    ],
)
def test_sizes_that_the_search_does_not_know_are_refused(options: dict[str, int], words: str) -> None:
    arguments = {"bits": 4, "state_bits": 12, **options}
    with pytest.raises(EdgekitError, match=words):
        search_pass(TrellisRows.begin(gaussian(2, 32), np.full(2, SCALE)), **arguments)  # type: ignore[arg-type]


def test_widths_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(EdgekitError, match="multiple of 32"):
        search_pass(TrellisRows.begin(gaussian(2, 40), np.full(2, SCALE)), 4, 12)
