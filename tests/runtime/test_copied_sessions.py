"""A session that begins as another one: the same logits, and the two are apart from then on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.runtime.model import Model
from edgekit.runtime.values import Options
from tests import tiny
from tests.conftest import DEMO

IDS = np.random.default_rng(5).integers(3, 199, 60).tolist()


@pytest.fixture(scope="module", params=["llama", "gemma3", "lfm2", "mixtral", "qwen3_5", "gemma4"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.make(request.param, folder / "checkpoint")
    (folder / "checkpoint" / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    return convert(folder / "checkpoint", folder / "bundle", "q4").path


@pytest.mark.parametrize("cache_type", ["f16", "f32"])
@pytest.mark.parametrize("position", [0, 1, 40, 48])
def test_a_copy_goes_on_as_the_original_does(bundle: Path, cache_type: str, position: int) -> None:
    with Model(bundle, Options(context=96, sessions=3, cache_type=cache_type)) as model:
        first, second, alone = (model.create_session() for _ in range(3))
        alone.eval(IDS[:48])
        alone.rewind(position)
        want = alone.logits(IDS[position:])
        first.eval(IDS[:48])
        second.eval(IDS[20:40])  # forgotten
        second.copy_from(first, position)
        assert second.tokens == IDS[:position]
        first.eval(IDS[:5])  # is not in the copy
        assert np.array_equal(second.logits(IDS[position:]), want)
        assert first.tokens == IDS[:48] + IDS[:5]


def test_what_cannot_be_copied_is_refused(bundle: Path) -> None:
    with Model(bundle, Options(context=96, sessions=2)) as model, Model(bundle, Options(context=96)) as other:
        first, second, stranger = model.create_session(), model.create_session(), other.create_session()
        first.eval(IDS[:8])
        second.eval(IDS[:3])
        for source, position, message in (
            (second, 1, "two of one model"),
            (stranger, 0, "two of one model"),
            (first, 9, "has 8 tokens, not 9"),
        ):
            with pytest.raises(RuntimeFailure, match=message):
                second.copy_from(source, position)
        assert second.tokens == IDS[:3]
