"""The torch decoder against the reference, for every architecture, and stage by stage against the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.reference import Reference
from edgekit.train.decoder import Decoder, without_gradients
from edgekit.train.weights import BundleTensors
from tests import tiny

IDS = np.random.default_rng(1).integers(3, 199, (2, 20))


@pytest.mark.parametrize("name", sorted(tiny.MAKERS))
def test_logits_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "source")
    bundle = convert(tmp_path / "source", tmp_path / "bundle", "f32").path
    weights = BundleTensors(bundle)
    if without_gradients(weights.model) is not None:
        assert name.startswith(("qwen3_next", "qwen3_5", "gemma4"))
        with pytest.raises(ConvertError, match="there are no gradients"):
            Decoder(weights.model, weights)
        return
    decoder = Decoder(weights.model, weights)
    with torch.no_grad():
        got = decoder.logits(torch.tensor(IDS)).numpy()
    for row, ids in zip(got, IDS, strict=True):
        want = Reference(bundle).logits(ids.tolist())
        assert np.abs(row - want).max() <= 1e-4 * np.abs(want).max()


def test_what_a_decoder_does_not_compute_is_named() -> None:
    def model(embedding: dict[str, int], **block: object) -> dict[str, object]:
        return {"embedding": embedding, "blocks": [{"kind": "attention", **block}]}

    assert without_gradients(model({})) is None
    assert "encoders" in str(without_gradients(model({}, causal=False)))
    assert "another layer" in str(without_gradients(model({}, source=1)))
    assert "each layer" in str(without_gradients(model({"layers": 1})))
    assert "'linear_attention'" in str(without_gradients({**model({}), "blocks": [{"kind": "linear_attention"}]}))
