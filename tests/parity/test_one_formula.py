"""A token's logits do not depend on what it is computed with: bit for bit the same alone, in a prompt or among drafts.

Nor do they depend on the number of threads, on what is streamed, on the selection as long as it is exact, or on other
sessions in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgekit.codecs import make_codec
from edgekit.conversion import convert
from edgekit.generate.loop import TextModel
from edgekit.recipe import Recipe, Rule
from edgekit.runtime.model import kernel_sets, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import tiny
from tests.conftest import ROOT

IDS = np.random.default_rng(3).integers(3, 199, 40).tolist()
CODECS = {
    "affine4": ("affine", {"bits": 4, "group_size": 32}),
    "affine8_asymmetric": ("affine", {"bits": 8, "group_size": 32, "symmetric": False}),
    "scaled3": ("scaled_palette", {"bits": 3, "group_size": 64}),
    "palette4": ("palette", {"bits": 4}),
    "palette6": ("palette", {"bits": 6}),
    "trellis3": ("trellis", {"bits": 3}),
    "f16": ("f16", {}),
}


def bundle_of(name: str, codec: str, folder: Path, layout: str = "auto") -> Path:
    method, options = CODECS[codec]
    tiny.make(name, folder / "checkpoint")
    recipe = Recipe(codec, (Rule("*", make_codec(method, **options)),))  # type: ignore[arg-type]
    return convert(folder / "checkpoint", folder / "bundle", recipe, layout=layout).path


def logits(bundle: Path, sizes: list[int], **options: object) -> np.ndarray:
    """Logits of all tokens, which come in passes of these sizes."""
    values = {"context": 64, "batch": 64, "threads": 1, **options}
    with Session(bundle, Options(**values)) as session:  # type: ignore[arg-type]
        return np.concatenate([session.logits(run) for run in runs(sizes)])


def runs(sizes: list[int]) -> Iterator[list[int]]:
    at = 0
    for size in sizes:
        yield IDS[at : at + size]
        at += size
    assert at == len(IDS)


PASSES = {
    "prompt": [40],
    "drafts": [2, 3, 4, 5, 7, 8, 9, 2],
    "wide": [16, 17, 7],
}


@pytest.mark.parametrize("activations", ["f32", "int8"])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ["llama", "llama_odd_sizes"])
def test_tokens_get_the_same_bits_alone_and_together(name: str, codec: str, activations: str, tmp_path: Path) -> None:
    bundle = bundle_of(name, codec, tmp_path)
    alone = logits(bundle, [1] * 40, activations=activations)
    for sizes in PASSES.values():
        for threads in (1, 2, 3, 4):
            got = logits(bundle, sizes, activations=activations, threads=threads)
            assert np.array_equal(got, alone)


STEEP = ("llama_relu", "opt_wide", "bitnet")  # whose neurons are often zero
KINDS = ["llama_relu", "opt_wide", "opt_post_norm_projected", "mixtral", "qwen2_moe", "lfm2", "bitnet"]


@pytest.mark.parametrize("activations", ["f32", "int8"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_block_gives_the_same_bits_alone_and_together(
    name: str, activations: str, tmp_path: Path
) -> None:
    bundle = bundle_of(name, "affine4", tmp_path)
    alone = logits(bundle, [1] * 40, activations=activations)
    for sizes in PASSES.values():
        assert np.array_equal(logits(bundle, sizes, activations=activations, threads=2), alone)


@pytest.mark.parametrize("kernels", kernel_sets())
@pytest.mark.parametrize("codec", ["affine4", "palette6", "f16"])
def test_every_kernel_set_has_one_formula(kernels: str, codec: str, tmp_path: Path) -> None:
    bundle = bundle_of("llama", codec, tmp_path)
    for activations in ("f32", "int8"):
        alone = logits(bundle, [1] * 40, activations=activations, kernels=kernels)
        for sizes in PASSES.values():
            assert np.array_equal(logits(bundle, sizes, activations=activations, kernels=kernels), alone)


@pytest.mark.parametrize("activations", ["f32", "int8"])
@pytest.mark.parametrize("name", ["llama_relu", "opt_wide", "mixtral", "llama", "bitnet"])
def test_neither_streaming_nor_selection_nor_threads_change_a_bit(name: str, activations: str, tmp_path: Path) -> None:
    bundle = bundle_of(name, "affine4", tmp_path, layout="split" if name in STEEP else "auto")
    alone = logits(bundle, [1] * 40, activations=activations, select="auto" if name == "mixtral" else "all")
    selections = ("all", "exact") if name in STEEP else ("auto",)
    for select in selections:
        for threads in (1, 2, 4):
            options = Options(context=64, batch=8, threads=threads, activations=activations, select=select)
            plan = plan_bundle(bundle, options)
            for ram in (plan.floor_bytes, plan.floor_bytes + plan.weight_bytes // 2, None):
                for sizes in ([1] * 40, [3, 5, 8, 8, 8, 1, 1, 1, 1, 1, 1, 1, 1]):
                    got = logits(
                        bundle, sizes, activations=activations, threads=threads, batch=8, select=select, ram=ram
                    )
                    assert np.array_equal(got, alone)


@pytest.mark.parametrize("activations", ["auto", "int8", "f32"])
def test_drafts_leave_the_text_of_a_quantized_model_as_it_is(activations: str, tmp_path: Path) -> None:
    bundle = convert(ROOT / "examples" / "demo_model" / "checkpoint", tmp_path / "q4", "q4").path
    texts = {}
    for drafts in (0, 4, 6):
        options = Options(context=256, draft_tokens=drafts, activations=activations)
        with TextModel(bundle, options) as model:
            made = model.generate(
                "Once upon a time, there was a little girl. The little girl", 200, Sampling(temperature=0)
            )
            texts[drafts] = [piece.token for piece in made]
            assert drafts == 0 or model.stats.drafted_tokens > 0
    assert texts[0] == texts[4] == texts[6]
