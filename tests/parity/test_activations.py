"""Activations of 8 bits: leaving out, streaming and sharing work change no bit, and logits stay close to f32's."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import manifest
from edgekit.codecs import make_codec
from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.recipe import Recipe, Rule
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny

IDS = np.random.default_rng(3).integers(3, 199, 40).tolist()
RECIPES = ("q4", "q8")


def run(bundle: Path, **options: object) -> tuple[np.ndarray, Session]:
    """Logits of a prompt and of single tokens."""
    values = {"context": 64, "batch": 8, "activations": "int8", **options}
    session = Session(bundle, Options(**values))  # type: ignore[arg-type]
    return np.concatenate([session.logits(IDS[:30])] + [session.logits([i]) for i in IDS[30:]]), session


@pytest.mark.parametrize("name", ["opt_wide", "llama_relu"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_exact_selection_equals_dense_bit_for_bit(name: str, recipe: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe, layout="split").path
    _, dense = run(bundle, select="all")
    full = dense.stats.peak_memory_bytes
    values = {"context": 64, "batch": 8, "select": "exact", "activations": "int8"}
    floor = plan_bundle(bundle, Options(**values)).floor_bytes  # type: ignore[arg-type]
    for ram in (floor, (floor + full) // 2):
        got, session = run(bundle, select="exact", ram=ram)
        same_batch, _ = run(bundle, select="all", batch=session.plan.max_batch)
        assert np.array_equal(got, same_batch)
        assert session.stats.peak_memory_bytes <= ram
        assert 0 < session.stats.selected < session.stats.neurons
        session.close()


@pytest.mark.parametrize("name", ["llama", "mixtral", "opt_post_norm_projected", "llama_odd_sizes"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_neither_streaming_nor_threads_change_a_bit(name: str, recipe: str, tmp_path: Path) -> None:
    tiny.make(name, tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe).path
    floor = plan_bundle(bundle, Options(context=64, batch=8, threads=2, activations="int8")).floor_bytes
    got, session = run(bundle, threads=2, ram=floor)
    assert session.stats.generation_bytes_read > 0
    assert session.stats.peak_memory_bytes <= floor
    for threads in (1, 3):
        want, resident = run(bundle, threads=threads, batch=session.plan.max_batch)
        assert np.array_equal(got, want)
        resident.close()
    session.close()


@pytest.mark.parametrize("recipe", RECIPES)
def test_products_do_not_depend_on_how_many_tokens_come_together(recipe: str, tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe).path
    listed = manifest.read(bundle).data["matrices"]
    index = next(i for i, m in enumerate(listed) if m["name"] == manifest.read(bundle).data["model"]["head"]["matrix"])
    rows, columns = listed[index]["rows"], listed[index]["parts"][0]["cols"]
    x = np.random.default_rng(5).standard_normal((40, columns), dtype=np.float32)
    with Session(bundle, Options(compute="linear", activations="int8", batch=64)) as session:

        def product(tokens: np.ndarray) -> np.ndarray:
            given, out = np.ascontiguousarray(tokens), np.empty((len(tokens), rows), np.float32)
            source, target = (a.ctypes.data_as(ctypes.c_void_p) for a in (given, out))
            session._call("linear", index, source, columns, len(given), target, rows)
            return out

        single = np.concatenate([product(row[None]) for row in x])
        for tokens in (2, 16, 17, 40):
            assert np.array_equal(product(x[:tokens]), single[:tokens])


@pytest.mark.parametrize("recipe", RECIPES)
def test_logits_are_near_those_of_f32_and_not_the_same(recipe: str, tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe).path
    got, session = run(bundle)
    want, exact = run(bundle, activations="f32")
    error = np.abs(got - want).max() / np.abs(want).max()
    assert 0 < error < 0.05
    session.close()
    exact.close()


@pytest.mark.parametrize(("method", "bits"), [(m, b) for m in ("affine", "scaled_palette") for b in (2, 3, 8)])
def test_every_width_has_products_with_8_bits_and_auto_has_them_from_3_bits_on(
    method: str, bits: int, tmp_path: Path
) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    recipe = Recipe("one", (Rule("*", make_codec(method, bits=bits, group_size=32)),))
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe).path
    found = {}
    for activations in ("auto", "int8", "f32"):
        found[activations], session = run(bundle, activations=activations)
        session.close()
    assert np.array_equal(found["auto"], found["int8" if bits >= 3 else "f32"])
    assert not np.array_equal(found["int8"], found["f32"])


def test_unknown_activations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="activations is 'int4'; it is one of auto, f32, int8"):
        Options(activations="int4").native()
