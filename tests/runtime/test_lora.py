"""run --lora: an adapter applied at run time computes what the merged model computes, within the budget."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.adapter import is_adapter, write_adapter
from edgekit.bundle.checksum import lane64
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import BudgetError, EdgekitError
from edgekit.generate.loop import load
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests.conftest import DEMO
from tests.test_lora import adapter

IDS = np.random.default_rng(1).integers(3, 199, 24).tolist()
RANDOM = np.random.default_rng(5)


def options(lora: Path | None, **more: Any) -> Options:
    return Options(cache_type="f32", activations="f32", lora=lora, **more)


def logits(bundle: Path, chosen: Options) -> np.ndarray:
    """A prompt at once, then token by token."""
    with Session(bundle, chosen) as session:
        return np.concatenate([session.logits(IDS[:16]), *(session.logits([i]) for i in IDS[16:])])


@pytest.mark.parametrize(
    ("name", "layout", "settings"),
    [
        ("llama", "auto", {"target_modules": "all-linear"}),
        ("llama_relu", "split", {"target_modules": "all-linear"}),
        ("llama_tied_biased", "auto", {"target_modules": ["o_proj", "down_proj"]}),
        ("qwen2", "auto", {"target_modules": ["q_proj", "up_proj"], "use_rslora": True}),
        ("phi3", "auto", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
        ("gpt2", "auto", {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
        ("gpt_neox", "auto", {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
        ("lfm2", "auto", {"target_modules": ["in_proj", "out_proj", "w1", "w2", "w3"]}),
        ("qwen3_next", "auto", {"target_modules": ["in_proj_qkvz", "in_proj_ba", "out_proj", "q_proj"]}),
    ],
)
def test_an_adapter_computes_what_the_merged_model_computes(
    name: str, layout: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    adapter(name, tmp_path, **settings)
    plain = convert(tmp_path / "checkpoint", tmp_path / "plain", "f32", layout=layout).path
    merged = convert(tmp_path / "checkpoint", tmp_path / "merged", "f32", lora=tmp_path / "adapter").path
    want, without = logits(merged, options(None)), logits(plain, options(None))
    got = logits(plain, options(tmp_path / "adapter"))
    # f32 throughout: B A is added to the weights there, to the products here.
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert np.abs(without - want).max() > 0.01 * np.abs(want).max()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle, and an adapter's file that changes all its matrices."""
    folder = tmp_path_factory.mktemp("lora")
    adapter("llama_relu", folder, target_modules="all-linear")
    bundle = convert(folder / "checkpoint", folder / "bundle", "q4", layout="split").path
    write_adapter(bundle, folder / "adapter", folder / "made.lora")
    return bundle, folder / "made.lora"


def test_streamed_weights_give_the_same_bits_within_the_budget(made: tuple[Path, Path]) -> None:
    bundle, lora = made
    want = logits(bundle, options(lora, context=64))
    floor = plan_bundle(bundle, options(lora, context=64)).floor_bytes
    assert floor > plan_bundle(bundle, options(None, context=64)).floor_bytes
    for ram in (floor, floor + (64 << 10)):
        with Session(bundle, options(lora, context=64, ram=ram)) as session:
            got = np.concatenate([session.logits(IDS[:16]), *(session.logits([i]) for i in IDS[16:])])
            assert session.plan.streamed_bytes > 0
            assert session.stats.peak_memory_bytes <= ram
        assert np.array_equal(got, want)
    with pytest.raises(BudgetError, match=r"too small|below"):
        Model(bundle, options(lora, context=64, ram=floor - 4096))
    for threads in (1, 3):
        assert np.array_equal(logits(bundle, options(lora, context=64, threads=threads, batch=5)), want)


def test_saved_sessions_belong_to_an_adapter(made: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, lora = made
    with Session(bundle, options(lora)) as session:
        session.logits(IDS)
        session.save(tmp_path / "with")
    with Session(bundle, options(None)) as session:
        session.logits(IDS)
        session.save(tmp_path / "without")
        with pytest.raises(EdgekitError, match="another bundle or adapter"):
            session.restore(tmp_path / "with")
    with Session(bundle, options(lora)) as session:
        with pytest.raises(EdgekitError, match="another bundle or adapter"):
            session.restore(tmp_path / "without")
        session.restore(tmp_path / "with")
        assert session.position == len(IDS)


def test_selections_that_leave_neurons_out_are_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, lora = made
    with pytest.raises(EdgekitError, match="changes the neurons of feed-forward blocks, which selections leave out"):
        Model(bundle, options(lora, select="exact"))
    with pytest.raises(EdgekitError, match="needs the whole model"):
        Model(bundle, options(lora, compute="feed_forward"))
    adapter("llama_relu", tmp_path, target_modules=["q_proj"])  # attention alone may be changed
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32", layout="split").path
    got = logits(bundle, options(tmp_path / "adapter", select="exact"))
    assert np.abs(got - logits(bundle, options(tmp_path / "adapter"))).max() <= 1e-4 * np.abs(got).max()


def test_files_cut_or_changed_anywhere_are_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, lora = made
    raw, path = lora.read_bytes(), tmp_path / "bad.lora"
    assert is_adapter(lora)

    def refused() -> str:
        with pytest.raises(EdgekitError) as found:
            Model(bundle, options(path))
        assert "\n" not in str(found.value)
        return str(found.value)

    for length in (0, 1, 63, 64, 65, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:length])
        refused()
    for at in (*range(64), *RANDOM.integers(64, len(raw), 60).tolist()):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << int(RANDOM.integers(8))]) + raw[at + 1 :])
        refused()


def resealed(raw: bytes, at: int, value: bytes) -> bytes:
    """Another value in a file, whose checksums say that it belongs there."""
    changed = bytearray(raw)
    changed[at : at + len(value)] = value
    changed[32:40] = lane64(bytes(changed[64:])).to_bytes(8, "little")
    changed[56:64] = lane64(bytes(changed[:56])).to_bytes(8, "little")
    return bytes(changed)


def test_numbers_of_forged_files_are_not_believed(made: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, lora = made
    raw, path = lora.read_bytes(), tmp_path / "forged.lora"
    fields = [(24, 4), (16, 8), (8, 8)] + [(64 + 4 * i, 4) for i in range(6)] + [(88, 8), (64 + 32, 4), (64 + 36, 4)]
    for at, size in fields:
        for value in (0, 1, 7, 1 << 12, (1 << 31) - 1, (1 << 32) - 1, 1 << 63, (1 << 64) - 64):
            path.write_bytes(resealed(raw, at, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")))
            with suppress(EdgekitError):  # anything else fails; what is left is as it was
                logits(bundle, options(path))
    path.write_bytes(resealed(raw, len(raw) - 64, b"\x00\x00\xc0\x7f"))
    with pytest.raises(EdgekitError, match="not finite"):
        Model(bundle, options(path))


def test_adapters_of_other_bundles_and_kinds_are_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, lora = made
    other = convert(DEMO, tmp_path / "other", "q4").path
    with pytest.raises(EdgekitError, match="is an adapter of another bundle"):
        Model(other, options(lora))
    adapter("llama", tmp_path / "saved", target_modules=["up_proj"], modules_to_save=["lm_head"])
    whole = convert(tmp_path / "saved" / "checkpoint", tmp_path / "whole", "f32").path
    with pytest.raises(EdgekitError, match=r"trains 'lm_head\.weight' whole; merge"):
        Model(whole, options(tmp_path / "saved" / "adapter"))
    with pytest.raises(EdgekitError, match="does not have the shape of the checkpoint"):
        Model(other, options(lora.parent / "adapter"))


def test_commands_take_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peft, tf = pytest.importorskip("peft"), pytest.importorskip("transformers")
    bundle = convert(DEMO, tmp_path / "demo", "q8").path
    model = peft.get_peft_model(
        tf.AutoModelForCausalLM.from_pretrained(DEMO, dtype="float32"),
        peft.LoraConfig(r=2, target_modules=["o_proj", "down_proj"], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "adapter")
    assert main(["adapter", str(bundle), str(tmp_path / "adapter"), "-o", str(tmp_path / "made.lora"), "-q"]) == 0
    run = ["run", str(bundle), "-p", "Once upon a time", "-n", "12", "--temp", "0", "--json"]
    texts = []
    for more in ([], ["--lora", str(tmp_path / "adapter")], ["--lora", str(tmp_path / "made.lora")]):
        capsys.readouterr()
        assert main([*run, *more]) == 0
        texts.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert texts[1] == texts[2] != texts[0]
    with load(bundle, lora=tmp_path / "made.lora") as opened:
        pieces = opened.generate("Once upon a time", 12, sampling=None)
        assert next(iter(pieces)).text
    assert main(["adapter", str(bundle), str(tmp_path / "adapter"), "-o", str(tmp_path / "made.lora")]) != 0
    assert "exists already" in capsys.readouterr().err
    assert main([*run, "--lora", str(tmp_path / "made.lora"), "--backend", "onnx"]) != 0
    assert not [p for p in os.listdir(tmp_path) if "partial" in p]
