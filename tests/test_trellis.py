"""The trellis codec and its solver, without a runtime that computes with it."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.codecs import codec_of, make_codec
from edgekit.codecs.bitshift import pack_stream, states_of, unpack_stream, values_of
from edgekit.errors import EdgekitError, RecipeError
from edgekit.solvers import Statistics, encode, solver_for
from tests.runtime.test_trellis_search import gaussian, hessian


def stream_states(stream: bytes, cols: int, bits: int, state_bits: int) -> list[int]:
    """The states as docs/format.md says, bit by bit."""
    loose = [stream[i // 8] >> i % 8 & 1 for i in range(cols * bits)]
    return [sum(loose[(j * bits + i) % len(loose)] << i for i in range(state_bits)) for j in range(cols)]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("state_bits", [12, 13, 16])
def test_states_are_the_windows_of_a_circular_stream(bits: int, state_bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (3, 64)).astype(np.uint8)
    stream = pack_stream(codes, bits)
    assert stream.shape == (3, 8 * bits)
    np.testing.assert_array_equal(unpack_stream(stream, bits, 64), codes)
    for row, states in zip(stream, states_of(codes, bits, state_bits), strict=True):
        assert states.tolist() == stream_states(row.tobytes(), 64, bits, state_bits)


def test_values_are_sums_of_the_bytes_of_a_product() -> None:
    for state in (0, 1, 4095, 65535):
        product = (state * 439072549 + 1567861309) % 2**32
        want = sum((product >> s) & 127 for s in (0, 8, 16, 24)) - 254
        assert values_of(np.array([state], np.uint32))[0] == want


def test_values_are_spread_like_a_bell_around_zero() -> None:
    values = values_of(np.arange(4096, dtype=np.uint32))
    assert abs(float(values.mean())) < 1
    assert 70 < float(values.std()) < 80


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("cols", [31, 32, 72, 257])
def test_records_hold_what_was_packed(bits: int, cols: int) -> None:
    codec = make_codec("trellis", bits)
    made = encode(codec, gaussian(3, cols))
    assert made.records.shape == (3, codec.record_bytes(cols))
    again = codec.unpack(made.records, cols)
    np.testing.assert_array_equal(again["codes"], made.arrays["codes"])
    np.testing.assert_array_equal(again["scale"], made.arrays["scale"])
    decoded = codec.decode(made.records, cols)
    assert decoded.shape == (3, cols)
    assert decoded.dtype == np.float32
    error = ((decoded - gaussian(3, cols)) ** 2).mean() / (gaussian(3, cols) ** 2).mean()
    assert error < {2: 0.12, 3: 0.035, 4: 0.012}[bits]


def test_a_manifest_brings_the_codec_back() -> None:
    codec = make_codec("trellis", 2, state_bits=14)
    assert codec_of(codec.manifest()) == codec


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 5}, {"state_bits": 11}, {"state_bits": 17}])
def test_sizes_that_no_trellis_has_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="a trellis has"):
        make_codec("trellis", **options)


@pytest.mark.parametrize("inputs_are_rows", [False, True])
def test_calibrated_codes_cost_less_than_nearest_ones(inputs_are_rows: bool) -> None:
    weights, codec = gaussian(40, 40), make_codec("trellis", 3)
    h = hessian(40)
    statistics = Statistics(h.astype(np.float32), inputs_are_rows)

    def cost(solver: str) -> float:
        e = (
            codec.decode(
                encode(
                    codec, weights, solver_for(codec, solver), statistics if solver == "ldlq" else Statistics()
                ).records,
                40,
            )
            - weights
        )
        e = e.T if inputs_are_rows else e
        return float(np.einsum("ri,ij,rj->", e, h, e))

    assert cost("ldlq") < 0.7 * cost("viterbi")


@pytest.mark.parametrize("inputs_are_rows", [False, True])
def test_what_outputs_matter_is_heeded(inputs_are_rows: bool) -> None:
    weights, codec = gaussian(48, 64), make_codec("trellis", 3)
    h, g = (hessian(n) for n in ((48, 64) if inputs_are_rows else (64, 48)))

    def cost(statistics: Statistics) -> float:
        made = encode(codec, weights, solver_for(codec, "ldlq"), statistics)
        e = codec.decode(made.records, 64) - weights
        e = e.T if inputs_are_rows else e
        return float(np.trace(g @ e @ h @ e.T))

    one_side = cost(Statistics(h.astype(np.float32), inputs_are_rows))
    assert cost(Statistics(h.astype(np.float32), inputs_are_rows, g.astype(np.float32))) < 0.85 * one_side


@pytest.mark.parametrize("inputs_are_rows", [False, True])
def test_more_sweeps_cost_less(inputs_are_rows: bool) -> None:
    weights, codec = gaussian(32, 32), make_codec("trellis", 2)
    h, g = hessian(32), hessian(32)[::-1, ::-1]
    statistics = Statistics(h.astype(np.float32), inputs_are_rows, g.astype(np.float32))

    def cost(solver: str) -> float:
        made = encode(codec, weights, solver_for(codec, solver), statistics)
        e = codec.decode(made.records, 32) - weights
        e = e.T if inputs_are_rows else e
        return float(np.trace(g @ e @ h @ e.T))

    assert cost("ldlq8") < cost("ldlq")


def test_a_singular_hessian_and_odd_rows_are_no_trouble() -> None:
    weights = np.stack([np.zeros(33), np.full(33, 0.5), np.full(33, 1e9)]).astype(np.float32)
    codec = make_codec("trellis", 2)
    for h in (np.zeros((33, 33)), np.ones((33, 33))):
        made = encode(codec, weights, solver_for(codec, "ldlq"), Statistics(h.astype(np.float32)))
        decoded = codec.decode(made.records, 33)
        assert np.isfinite(decoded).all()
        assert (decoded[0] == 0).all()


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = gaussian(2, 32)
    weights[0, 0] = np.nan
    with pytest.raises(EdgekitError, match="finite"):
        encode(make_codec("trellis", 2), weights)
