"""The benchmark of KV policies: equal memory is equal, and names are found where the cache still has them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kv import contenders, gained, haystacks, name_scores, windowed
from edgekit.conversion import convert
from edgekit.generate.loop import TextModel
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options
from tests.conftest import DEMO

FILLER = "The sun was warm. The dog ran to the tree. A bird sang a song. They ate some cake. It was a big red ball. "


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("demo") / "bundle", "f16").path


def test_what_a_name_gains() -> None:
    assert gained(np.array([[-1.0, -5.0], [-3.0, -5.0]])) == (1.0, 1.0)  # the first gains 2, the second nothing
    assert gained(np.array([[-1.0, -3.0], [-2.0, -5.0]])) == (-0.5, 0.0)  # 1, and -2 where it was told itself


def test_windows_fit_in_what_they_are_compared_with(demo: Path) -> None:
    full, q8, f16_as_q8, q4, *_ = contenders(demo, 256)
    assert q4.kv_bytes < f16_as_q8.kv_bytes <= q8.kv_bytes < full.kv_bytes
    larger = Options(**{**vars(f16_as_q8.options), "kv_window": f16_as_q8.options.kv_window + 1})
    assert plan_bundle(demo, larger).kv_bytes > q8.kv_bytes
    with pytest.raises(ValueError, match="no window fits"):
        windowed(demo, full.options, 4, 1000)


def test_names_are_found_where_the_cache_has_them(demo: Path, tmp_path: Path) -> None:
    """Five layers with a window of 8 hand a name on over 40 tokens at most; this one was told 100 before."""
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": FILLER * 6 + "Tom was there. "}) + "\n")
    gains = {}
    for name, policy in {"full": {}, "sinks": {"kv_policy": "sinks", "kv_sinks": 4, "kv_window": 8}}.items():
        with TextModel(demo, Options(context=256, **policy)) as model:  # type: ignore[arg-type]
            (hay,) = haystacks(model.tokenizer, tmp_path / "text.jsonl", 100, 1)
            assert "Tom" not in " ".join(hay)
            gains[name] = gained(name_scores(model.session, model.tokenizer, hay, 0))
    assert gains["full"][0] > 1
    assert gains["full"][1] > 0.5
    assert abs(gains["sinks"][0]) < 0.1
