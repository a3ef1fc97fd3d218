"""Every architecture computes what transformers computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.conversion import convert
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import openelm, tiny

PROMPT, STEPS = 13, 32
# f32 weights and an f32 cache: only the order of additions differs.
TOLERANCE = 1e-4


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """max |difference| / max |value|"""
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", sorted(tiny.MAKERS))
def test_prefill_and_decode_match_transformers(name: str, tmp_path: Path) -> None:
    model = tiny.make(name, tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    ids = np.random.default_rng(1).integers(3, 199, PROMPT + STEPS).tolist()
    # Step by step, as the runtime will: scaled ropes depend on the length so far.
    with torch.no_grad():
        out = model(torch.tensor([ids[:PROMPT]]), use_cache=True)
        want = [out.logits[0].numpy()]
        for token in ids[PROMPT:]:
            out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            want.append(out.logits[0].numpy())
    with Session(tmp_path / "bundle.edgekit", Options(cache_type="f32", batch=5)) as session:
        got = [session.logits(ids[:PROMPT])] + [session.logits([token]) for token in ids[PROMPT:]]
    assert relative(got[0], want[0]) <= TOLERANCE
    assert relative(np.concatenate(got[1:]), np.concatenate(want[1:])) <= TOLERANCE


def test_openelm_matches_its_definition(tmp_path: Path) -> None:
    tensors = openelm.make(tmp_path / "checkpoint")
    convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    ids = np.random.default_rng(1).integers(3, 199, PROMPT + STEPS).tolist()
    want = openelm.forward(tensors, ids).numpy()
    with Session(tmp_path / "bundle.edgekit", Options(cache_type="f32", batch=5)) as session:
        got = np.concatenate([session.logits(ids[:PROMPT])] + [session.logits([i]) for i in ids[PROMPT:]])
    assert relative(got, want) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_and_sharded_checkpoints_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny.make("llama", tmp_path / "checkpoint", dtype, max_shard_size="50KB")
    assert len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 1
    convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32")
    ids = list(range(3, 20))
    with torch.no_grad():
        want = model(torch.tensor([ids])).logits[0].numpy()
    with Session(tmp_path / "bundle.edgekit", Options(cache_type="f32")) as session:
        assert relative(session.logits(ids), want) <= TOLERANCE
