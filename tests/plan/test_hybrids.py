"""Speed of models with linear attention is predicted as of others, with what their state costs."""

from __future__ import annotations

from pathlib import Path

import transformers as tf

from edgekit.conversion import convert
from edgekit.plan.predict import predict
from edgekit.runtime.values import Options
from tests import tiny
from tests.plan.test_plan import made_up


def test_a_token_of_a_hybrid_costs_its_matrices_and_its_state(tmp_path: Path) -> None:
    options = Options(context=64, batch=8, select="all")
    seconds = {}
    tiny.MAKERS["wide"] = lambda: tf.Qwen3_5TextConfig(**{**tiny.DELTA, "linear_key_head_dim": 512})
    for name in ("qwen3_5", "wide"):
        tiny.make(name, tmp_path / name)
        bundle = convert(tmp_path / name, tmp_path / f"{name}_bundle", "q4").path
        seconds[name] = predict(bundle, options, made_up()).compute_seconds
    del tiny.MAKERS["wide"]
    assert 0 < seconds["qwen3_5"] < seconds["wide"]
