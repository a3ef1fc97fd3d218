"""Every architecture, in every format, computes what the native runtime computes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgekit.conversion import convert
from edgekit.converters.base import Choices, export
from edgekit.converters.engines import open_engine
from edgekit.converters.weights import Weights
from edgekit.errors import ConvertError
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import families, openelm, tiny

PROMPT, STEPS = 13, 16
EXACT = 1e-4  # f32: the order of additions differs
# f16: every value is rounded to 11 bits. Most models stay below 2e-3; these have weights scaled up by four (so that
# logits spread), and more norms or wider sums than the rest, each of which rounds again.
HALF, HALF_WIDE = 2e-3, 4e-3
WIDE = {
    "gemma3",
    "olmo2",
    "llama_relu",
    "llama_relu2",
    "mistral",
    "phi3_partial",
    "qwen3",
    "llama_mha",
    "llama_odd_sizes",
    "opt_wide",
    "olmo3",
    "olmo3_yarn",
    "smollm3_windows",
    "nemotron",
    "nemotron_biased",
    "bitnet",
    "bitnet_biased",
}
NAMES = [*sorted(tiny.MAKERS), "openelm"]
F32_KINDS = ["onnx", "onnx-exact", "onnx-flash", "mlx", "mlx-exact"]
# coreml-flash puts together what coreml and onnx-flash are tested for on every model, so one model a family will do.
FIRST = list({families.model_type(name): name for name in reversed(NAMES)}.values())
F16_CASES = [*((n, "coreml") for n in NAMES), *((n, "coreai") for n in NAMES), *((n, "coreml-flash") for n in FIRST)]
# Of families that mlx_lm has, models for which it has no code, or code that computes something else.
NOT_MLX = {
    "gpt_neox", "gpt_neox_serial", "llama_relu2", "phi3_longrope", "phi4_mini", "qwen2_windows", "smollm3_windows",
    "qwen2_moe", "qwen2_moe_windows", "qwen3_5_tied",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory):
    """Makes the bundle of an architecture and recipe once."""

    @cache
    def make(name: str, recipe: str, layers: int | None = None) -> Path:
        folder = tmp_path_factory.mktemp(name)
        if name == "openelm":
            openelm.make(folder / "checkpoint")
        else:
            tiny.make(name, folder / "checkpoint", layers=layers)
        return convert(folder / "checkpoint", folder / "bundle", recipe).path

    return make


@cache
def native(bundle: Path, total: int) -> np.ndarray:
    ids = tokens(total)
    with Session(bundle, Options(cache_type="f32", activations="f32")) as session:
        return np.concatenate([session.logits(ids[:PROMPT]), *(session.logits([i]) for i in ids[PROMPT:])])


def tokens(total: int) -> list[int]:
    return np.random.default_rng(1).integers(3, 199, total).tolist()


def difference(bundle: Path, kind: str) -> float:
    """Largest difference of a logit over the largest logit; prefill, then cached steps."""
    artifact = export(bundle, kind, Choices(chunk=8), overwrite=True)
    total = min(PROMPT + STEPS, artifact.about["context"])
    engine = open_engine(bundle, kind, Options(compute="feed_forward", activations="f32"), check=True)
    ids = tokens(total)
    got = [engine(ids[:PROMPT])] if total > PROMPT else [engine(ids[:total])]
    got += [engine([i]) for i in ids[PROMPT:]]
    engine.close()
    want = native(bundle, PROMPT + STEPS)[:total]
    return float(np.abs(np.concatenate(got) - want).max() / np.abs(want).max())


@pytest.mark.parametrize("kind", F32_KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_architectures_in_f32(name: str, kind: str, bundles) -> None:
    refused = kind in families.REFUSED.get(families.model_type(name), set())
    if refused or (kind == "mlx" and name in NOT_MLX):
        with pytest.raises(ConvertError, match=r"mlx_lm|no export writes yet"):
            export(bundles(name, "f32"), kind)
        return
    # A steep SiLU stands for ReLU in mlx_lm's llama.
    assert difference(bundles(name, "f32"), kind) <= (1e-3 if (name, kind) == ("llama_relu", "mlx") else EXACT)


@pytest.mark.parametrize(("name", "kind"), F16_CASES)
def test_architectures_in_f16(name: str, kind: str, bundles) -> None:
    if kind in families.REFUSED.get(families.model_type(name), set()):
        with pytest.raises(
            ConvertError,
            match=f"{kind}: this model has (blocks of the kind (convolution|linear_attention)|.*, which no export)",
        ):
            export(bundles(name, "f16"), kind)
        return
    assert difference(bundles(name, "f16"), kind) <= (HALF_WIDE if name in WIDE else HALF)


ROUTERS = '[[tensors]]\nmatch = "*router"\nmethod = "f16"\n'  # f16 arithmetic must not choose other experts
EXTRA = {
    "asymmetric": 'method = "affine"\nbits = 8\ngroup_size = 64\nsymmetric = false',
    "scaled4": 'method = "scaled_palette"\nbits = 4\ngroup_size = 32',
    "scaled3": 'method = "scaled_palette"\nbits = 3\ngroup_size = 256',
    "palette5": 'method = "palette"\nbits = 5',
    "affine3": 'method = "affine"\nbits = 3\ngroup_size = 256',
    "affine5": 'method = "affine"\nbits = 5\ngroup_size = 32',
    "trellis3": 'method = "trellis"\nbits = 3',
}
COMPUTED = {"trellis3"}  # Apple's formats cannot compute these weights: they are re-quantized, and that is counted
RECIPES = ["f16", "bf16", "q8", "q4", *(f"palette{b}" for b in (8, 6, 4, 3, 2, 1)), *EXTRA]


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Recipes that are no presets, as files."""
    folder, out = tmp_path_factory.mktemp("recipe"), {}
    for name, options in EXTRA.items():
        (folder / f"{name}.toml").write_text(f'{ROUTERS}[[tensors]]\nmatch = "*"\n{options}\n')
        out[name] = str(folder / f"{name}.toml")
    return out


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["llama_odd_sizes", "mixtral"])
def test_every_codec_is_kept_exactly(name: str, recipe: str, bundles, recipes) -> None:
    bundle = bundles(name, recipes.get(recipe, recipe), 1)  # more layers have the same matrices again
    for kind in ("onnx-exact", "onnx-flash", "mlx-exact"):
        assert difference(bundle, kind) <= EXACT, kind
    for kind in ("coreml", "coreai"):
        if recipe not in COMPUTED:
            assert difference(bundle, kind) <= HALF_WIDE, kind


@pytest.mark.parametrize(("recipe", "most"), [("q8", 0.006), ("q4", 0.09), ("palette6", 0.006), ("palette4", 0.1)])
@pytest.mark.parametrize("kind", ["onnx", "mlx"])
def test_what_is_requantized_is_counted(kind: str, recipe: str, most: float, bundles) -> None:
    about = export(bundles("llama", recipe), kind, overwrite=True).about
    assert about["requantized_weights"] > 0
    assert 0 < about["requantized_rms"] <= most
    better = export(bundles("llama", recipe), kind, Choices(bits=8), overwrite=True).about
    assert better["requantized_rms"] <= 0.006


@pytest.mark.parametrize("kind", ["onnx", "mlx", "coreml", "coreai"])
def test_computed_weights_are_requantized_and_counted_once(kind: str, bundles, recipes) -> None:
    bundle = bundles("llama", recipes["trellis3"])
    coarse, fine = (export(bundle, kind, Choices(bits=b, chunk=8), overwrite=True).about for b in (4, 8))
    parts = [(m["rows"], p) for m in Weights.open(bundle).bundle.data["matrices"] for p in m["parts"]]
    assert coarse["requantized_weights"] == sum(rows * p["cols"] for rows, p in parts if p["codec"] == "trellis")
    assert 0.03 < coarse["requantized_rms"] < 0.12
    assert 0 < fine["requantized_rms"] < 0.008


def test_core_ml_computes_in_f32_when_asked(bundles) -> None:
    bundle = bundles("gemma3", "f32")
    export(bundle, "coreml", Choices(precision="f32", chunk=8), overwrite=True)
    engine = open_engine(bundle, "coreml", Options(), check=True)
    got, want = engine(tokens(29)), native(bundle, 29)
    assert (
        float(np.abs(got - want).max() / np.abs(want).max()) <= 1e-3
    )  # the cache stays f16: states have no other type
