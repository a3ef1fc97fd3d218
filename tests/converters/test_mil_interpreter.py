"""Our MIL operations against coremltools' own evaluation of constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types

from edgekit.converters.coreml.interpreter import OPS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((2, 3, 4)).astype(np.float32)
CODES = RNG.integers(0, 16, (8, 6)).astype(np.uint8)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("add", {"x": X, "y": Y}),
    ("sub", {"x": X, "y": Y}),
    ("mul", {"x": X, "y": Y}),
    ("real_div", {"x": X, "y": Y}),
    ("maximum", {"x": X, "y": Y}),
    ("abs", {"x": X}),
    ("tanh", {"x": X}),
    ("relu", {"x": X}),
    ("silu", {"x": X}),
    ("gelu", {"x": X, "mode": "EXACT"}),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}),
    ("rsqrt", {"x": np.abs(X), "epsilon": np.float32(1e-3)}),
    ("greater", {"x": X, "y": Y}),
    ("less_equal", {"x": X, "y": Y}),
    ("logical_and", {"x": X > 0, "y": Y > 0}),
    ("select", {"cond": X > 0, "a": X, "b": Y}),
    ("reshape", {"x": X, "shape": np.array([3, 8], np.int32)}),
    ("transpose", {"x": X, "perm": np.array([2, 0, 1], np.int32)}),
    ("expand_dims", {"x": X, "axes": np.array([1], np.int32)}),
    ("squeeze", {"x": X[:1], "axes": np.array([0], np.int32)}),
    ("concat", {"values": [X, Y], "axis": -1}),
    ("softmax", {"x": X, "axis": -1}),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}),
    ("reduce_sum", {"x": X, "axes": np.array([-1], np.int32), "keep_dims": True}),
    ("reduce_mean", {"x": X, "axes": np.array([1], np.int32), "keep_dims": False}),
    ("reduce_max", {"x": X, "axes": np.array([-1], np.int32), "keep_dims": True}),
    ("gather", {"x": X, "indices": np.array([1, 0], np.int32), "axis": 0}),
    ("slice_by_index", {"x": X, "begin": np.array([0, 1, 0], np.int32), "end": np.array([0, 3, 3], np.int32),
                        "begin_mask": [True, False, False], "end_mask": [True, False, False]}),
    ("topk", {"x": X, "k": 2, "axis": -1, "ascending": False}),
    ("scatter_along_axis", {"data": X, "indices": np.array([[[1], [0], [2]], [[3], [3], [0]]], np.int32),
                            "updates": Y[:, :, :1], "axis": -1, "mode": "update"}),
    ("split", {"x": X, "split_sizes": np.array([1, 3], np.int32), "axis": -1}),
    ("linear", {"x": X, "weight": RNG.standard_normal((5, 4)).astype(np.float32),
                "bias": RNG.standard_normal(5).astype(np.float32)}),
    ("layer_norm", {"x": X, "axes": np.array([-1], np.int32), "epsilon": np.float32(1e-5),
                    "gamma": Y[0, 0], "beta": Y[0, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_operations_agree_with_coremltools(name: str, given: dict[str, Any]) -> None:
    with Function({"unused": mb.placeholder((1,), types.fp32)}, opset_version=ct.target.iOS18):
        made = getattr(mb, name)(**given)
        made = made if isinstance(made, (list, tuple)) else [made]
        want = [m.val for m in made]
    if name == "silu":  # which coremltools does not evaluate
        want = [X / (1 + np.exp(-X))]
    got = OPS[name](given)
    got = got if isinstance(got, (list, tuple)) else [got]
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(np.asarray(g, np.float64), np.asarray(w, np.float64), rtol=1e-5, atol=1e-6)


def test_decompression_agrees_with_coremltools() -> None:
    lut = RNG.standard_normal((2, 1, 16, 1)).astype(np.float16)
    kind = types.string_to_nptype("uint4")
    scale = RNG.standard_normal((8, 3)).astype(np.float16)
    zero = np.full((8, 3), 8).astype(kind)
    with Function({"unused": mb.placeholder((1,), types.fp32)}, opset_version=ct.target.iOS18):
        palette = mb.constexpr_lut_to_dense(indices=CODES.astype(kind), lut=lut)
        affine = mb.constexpr_blockwise_shift_scale(data=CODES.astype(kind), scale=scale, offset=zero)
        want = palette.op.materialized_val_inference(), affine.op.materialized_val_inference()
    np.testing.assert_array_equal(OPS["constexpr_lut_to_dense"]({"indices": CODES, "lut": lut}), want[0])
    got = OPS["constexpr_blockwise_shift_scale"]({"data": CODES, "scale": scale, "offset": zero})
    np.testing.assert_allclose(got, want[1], rtol=2e-3)
