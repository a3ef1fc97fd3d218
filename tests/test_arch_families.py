"""What sets the families apart beyond their logits: configs as they are published, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.arch import describe
from edgekit.arch.spec import Attention, Ffn
from edgekit.checkpoint import open_checkpoint
from edgekit.errors import UnsupportedModelError
from tests import tiny


def described(folder: Path, change: dict[str, Any]) -> Any:
    opened = open_checkpoint(folder)
    config = {k: v for k, v in (dict(opened.config) | change).items() if v is not ...}
    return describe(config, {n: t.shape for n, t in opened.tensors.items()}, opened.generation)


def test_layers_of_granite_that_do_not_attend_are_refused_by_name(tmp_path: Path) -> None:
    tiny.make("granitemoehybrid", tmp_path)
    for kinds in (["mamba", "attention", "attention"], ["linear_attention", *["full_attention"] * 2]):
        with pytest.raises(UnsupportedModelError, match="layer_types"):
            described(tmp_path, {"layer_types": kinds})
    with pytest.raises(UnsupportedModelError, match="layer_types"):
        described(tmp_path, {"layer_types": ...})


def test_the_kinds_of_layers_of_older_configs_are_known(tmp_path: Path) -> None:
    tiny.make("granitemoehybrid", tmp_path)
    old = described(tmp_path, {"layer_types": ["attention"] * 3})
    assert old == described(tmp_path, {})


def test_a_shared_expert_reads_what_the_experts_read(tmp_path: Path) -> None:
    tiny.make("qwen2_moe", tmp_path)
    kinds = []
    for block in described(tmp_path, {}).blocks:
        if isinstance(block, Attention):
            kinds.append("attention")
        else:
            kinds.append("experts" if block.router else "shared" if block.parallel else "dense")
    sparse = ["attention", "experts", "shared"]
    assert kinds == [*sparse, "attention", "dense", *sparse]


def test_layers_without_a_list_of_kinds_follow_the_pattern(tmp_path: Path) -> None:
    tiny.make("olmo3", tmp_path)
    made = described(tmp_path, {"layer_types": ...})
    assert [b.window for b in made.blocks if isinstance(b, Attention)] == [9, 9, 9, 0]
    assert made == described(tmp_path, {})


def test_scaled_positions_change_only_layers_without_a_window(tmp_path: Path) -> None:
    tiny.make("olmo3_yarn", tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    scaling = {k: v for k, v in new["full_attention"].items() if k != "rope_theta"}
    old = {"rope_parameters": ..., "rope_scaling": scaling, "rope_theta": new["full_attention"]["rope_theta"]}
    made = described(tmp_path, old)
    assert made == described(tmp_path, {})
    ropes = [b.rope for b in made.blocks if isinstance(b, Attention)]
    assert ropes == [0, 0, 0, 1]


def test_multipliers_of_granite_are_kept(tmp_path: Path) -> None:
    tiny.make("granite", tmp_path)
    made = described(tmp_path, {})
    assert made.embedding_scale == 3.0
    assert made.head_scale == 0.25
    assert {b.residual_scale for b in made.blocks} == {0.5}
    assert {b.scale for b in made.blocks if isinstance(b, Attention)} == {0.2}


def test_clipped_projections_are_refused(tmp_path: Path) -> None:
    tiny.make("olmoe", tmp_path)
    with pytest.raises(UnsupportedModelError, match="clip_qkv"):
        described(tmp_path, {"clip_qkv": 8.0})


def test_interleaved_rotation_is_a_permutation_of_rows(tmp_path: Path) -> None:
    tiny.make("cohere2", tmp_path)
    made = described(tmp_path, {})
    first = made.blocks[0]
    assert [begin for begin, _ in first.q.ranges[:16]] == [*range(0, 16, 2), *range(1, 16, 2)]
    assert sorted(first.q.ranges) == [(r, r + 1) for r in range(first.q.rows)]
    assert isinstance(made.blocks[1], Ffn)
    assert made.blocks[1].parallel
