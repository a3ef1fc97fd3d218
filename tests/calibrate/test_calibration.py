"""Predictors, cuts and orders learned from text, against NumPy; and what they do in the runtime."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from edgekit.bundle.weights import BundleWeights
from edgekit.calibrate import activity
from edgekit.calibrate.calibration import Calibration
from edgekit.calibrate.order import coactive_order, runs_per_token
from edgekit.conversion import convert
from edgekit.errors import ConvertError
from edgekit.evaluate.divergence import divergence
from edgekit.generate.tokenizer import Tokenizer
from edgekit.plan.reuse import TOKENS, hit_rates, reuse_curves, unit_activity
from edgekit.reference import Reference
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text in the demo model's own words: it writes it, so that no data is needed."""
    folder = tmp_path_factory.mktemp("text")
    bundle = convert(DEMO, folder / "writer", "f16").path
    tokenizer = Tokenizer(bundle / "tokenizer")
    rng, documents = np.random.default_rng(0), []
    with Session(bundle, Options(context=160)) as session:
        for _ in range(24):
            session.reset()
            ids = tokenizer.encode("Once upon a time")
            logits = session.logits(ids)[-1]
            for _ in range(120):
                p = np.exp((logits - logits.max()).astype(np.float64))
                ids.append(int(rng.choice(len(p), p=p / p.sum())))
                logits = session.logits(ids[-1:])[0]
            documents.append(tokenizer.decode(ids))
    file = folder / "text.txt"
    file.write_text("<|endoftext|>".join(documents))
    return file


@pytest.fixture(scope="module")
def calibrated(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    how = Calibration((text,), tokens=2048, predictor=True, epochs=6)
    return convert(DEMO, tmp_path_factory.mktemp("made") / "demo", "f16", calibration=how).path


def test_permuted_bundle_computes_the_same(text: Path, calibrated: Path, tmp_path: Path) -> None:
    plain = convert(DEMO, tmp_path / "plain", "f16").path
    ids = Tokenizer(plain / "tokenizer").encode("Once upon a time there was a little girl named Lily.")
    with Session(plain, Options()) as a, Session(calibrated, Options(select="all")) as b:
        want, got = a.logits(ids), b.logits(ids)
    assert np.abs(want - got).max() <= 2e-3 * np.abs(want).max()  # sums in another order, f16 cache
    one, other = (BundleWeights(p).matrix("layers.0.ffn") for p in (plain, calibrated))
    assert not np.array_equal(one[0], other[0])
    assert np.array_equal(np.sort(one[0][:, 0]), np.sort(other[0][:, 0]))


def test_predictor_in_the_runtime_is_the_one_that_was_measured(calibrated: Path, text: Path) -> None:
    weights = BundleWeights(calibrated)
    ids = Tokenizer(calibrated / "tokenizer").encode(text.read_text()[:400])[:80]
    inputs: dict[int, list[np.ndarray]] = {}
    with Session(calibrated, Options(select="predicted")) as session:
        session.eval(ids[:8])
        before = session.stats.selected
        with session.capturing(lambda block, x: inputs.setdefault(block, []).append(x)):
            for token in ids[8:]:
                session.eval([token])
        selected = session.stats.selected - before
    expected = 0
    for block, rows in inputs.items():
        at = weights.data["model"]["blocks"][block]["predictor"]
        down, up = weights.matrix(at["down"])[0], weights.matrix(at["up"])[0]
        scores = np.concatenate(rows) @ down.T @ up.T + weights.vector(at["bias"])
        expected += int((scores > 0).sum())
    assert selected == pytest.approx(expected, rel=0.002)  # sums in another order flip a few near zero


def test_the_simulated_window_hits_as_often_as_the_real_one(calibrated: Path, text: Path) -> None:
    weights = BundleWeights(calibrated)
    ids = activity.token_runs(Tokenizer(calibrated / "tokenizer"), activity.documents([text]), TOKENS, TOKENS)[0]
    options = {"context": 320, "select": "predicted"}
    taken: dict[int, list[np.ndarray]] = {}
    with (
        Session(calibrated, Options(**options)) as session,
        session.capturing(lambda block, x: taken.setdefault(block, []).append(x)),
    ):
        session.eval(ids)
    needed, stride = [], 0
    for i, inputs in sorted(taken.items()):
        block = weights.data["model"]["blocks"][i]
        down, up = (weights.matrix(block["predictor"][p])[0] for p in ("down", "up"))
        scores = np.concatenate(inputs) @ down.T @ up.T + weights.vector(block["predictor"]["bias"])
        matrix = weights.matrix_entry(block["matrices"][0])
        needed.append(unit_activity(scores > 0, matrix["rows_per_unit"]))
        stride = matrix["unit_stride"]
    units = sum(n.shape[1] for n in needed)
    floor = plan_bundle(calibrated, Options(**options)).floor_bytes
    budgets = [floor + (k << 16) for k in range(128)]
    held = [plan_bundle(calibrated, Options(ram=b, **options)).window_bytes / stride / units for b in budgets]
    for least in (0.05, 0.15):
        ram, share = next((b, h) for b, h in zip(budgets, held, strict=True) if h > least)
        with Session(calibrated, Options(ram=ram, lookahead=False, **options)) as session:
            session.eval(ids[:2])
            for token in ids[2 : len(ids) // 2]:
                session.eval([token])
            before = session.stats
            for token in ids[len(ids) // 2 :]:
                session.eval([token])
            hits, misses = (getattr(session.stats, n) - getattr(before, n) for n in ("window_hits", "window_misses"))
        counts = [n[len(n) // 2 :].sum() for n in needed]
        simulated = float(np.average(hit_rates(needed, share), weights=counts))
        assert share < 0.9
        assert hits / (hits + misses) == pytest.approx(simulated, abs=0.05)


def test_predictor_misses_few_of_the_active_and_takes_few_of_the_others(calibrated: Path, text: Path) -> None:
    for block in BundleWeights(calibrated).data["model"]["blocks"]:
        if block["kind"] == "ffn":
            assert block["predictor"]["false_negatives"] <= 0.06
            assert block["predictor"]["false_positives"] <= 0.2
            assert block["predictor"]["reuse"][-1][1] > block["predictor"]["reuse"][0][1]
    runs = activity.token_runs(Tokenizer(calibrated / "tokenizer"), activity.documents([text]), 600, 120)
    cost = divergence(calibrated, Options(context=160, select="predicted"), runs)
    assert 0 < cost.kl < 0.1
    assert cost.top1 > 0.85


def test_without_false_negatives_prediction_equals_dense_bit_for_bit(text: Path, tmp_path: Path) -> None:
    how = Calibration((text,), tokens=1024, predictor=True, epochs=0, false_negatives=1e-6, order=False)
    bundle = convert(DEMO, tmp_path / "all", "f16", calibration=how).path
    # A bias that no score can undo makes the predictor take every neuron.
    weights = BundleWeights(bundle)
    ids = Tokenizer(bundle / "tokenizer").encode("Once upon a time there was a dog")
    raw = bytearray((bundle / "resident.bin").read_bytes())
    for vector in weights.data["vectors"]["list"]:
        if vector["name"].endswith("predict.bias"):
            raw[vector["offset"] : vector["offset"] + 4 * vector["count"]] = np.full(
                vector["count"], 1e9, "<f4"
            ).tobytes()
    (bundle / "resident.bin").write_bytes(raw)
    _sign_vectors(bundle, bytes(raw))
    with (
        Session(bundle, Options(select="all", ram=None)) as dense,
        Session(bundle, Options(select="predicted")) as all_,
    ):
        want = np.concatenate([dense.logits([t]) for t in ids])
        got = np.concatenate([all_.logits([t]) for t in ids])
    assert np.array_equal(want, got)


def _sign_vectors(bundle: Path, raw: bytes) -> None:
    from edgekit.bundle import manifest
    from edgekit.bundle.checksum import lane64

    data = dict(manifest.read(bundle).data)
    data.pop("checksum")
    data["vectors"]["checksum"] = f"{lane64(raw[: data['vectors']['bytes']]):016x}"
    (bundle / "manifest.json").write_bytes(manifest.sign(data))


def test_threshold_and_prompt_selection_leave_out_what_they_say(text: Path, tmp_path: Path, data: Path) -> None:
    how = Calibration((data / "text" / "tinystories_valid.jsonl",), tokens=1024)
    checkpoint = data / "models" / "stories260K"  # SiLU: nothing is exactly zero
    bundle = convert(checkpoint, tmp_path / "silu", "f16", layout="split", calibration=how).path
    runs = activity.token_runs(Tokenizer(bundle / "tokenizer"), activity.documents(how.text), 800, 100)
    last = 0.0
    for sparsity in (0.1, 0.3, 0.5):
        options = Options(context=128, select="threshold", sparsity=sparsity)
        with Session(bundle, options) as session:
            for token in runs[0][:60]:
                session.eval([token])
            share = session.stats.selected / session.stats.neurons
        assert share == pytest.approx(1 - sparsity, abs=0.05)
        cost = divergence(bundle, options, runs)
        assert last < cost.kl < 0.7
        last = cost.kl
    kept = Options(context=128, select="prompt", sparsity=0.25)
    with Session(bundle, kept) as session:
        session.eval(runs[0][:30])
        for token in runs[0][30:60]:
            session.eval([token])
        assert session.stats.selected / session.stats.neurons == pytest.approx(0.75, abs=0.01)
        want = session.logits([5])
    with Session(bundle, replace(kept, batch=1)) as session:  # a prompt that is read token by token
        session.eval(runs[0][:30])
        for token in runs[0][30:60]:
            session.eval([token])
        assert np.abs(session.logits([5]) - want).max() <= 2e-2 * np.abs(want).max()


def test_an_interrupted_conversion_keeps_its_calibration(text: Path, tmp_path: Path) -> None:
    how = Calibration((text,), tokens=512, predictor=True, epochs=1)
    seen: list[str] = []

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(DEMO, tmp_path / "demo", "f16", calibration=how, progress=stop)
    made = convert(DEMO, tmp_path / "demo", "f16", calibration=how, note=lambda what, d, t: seen.append(what)).path
    assert not seen  # nothing was learned twice
    whole = convert(DEMO, tmp_path / "whole", "f16", calibration=how).path
    for file in sorted(p.name for p in made.iterdir() if p.is_file()):
        assert (made / file).read_bytes() == (whole / file).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo.edgekit", "whole.edgekit"]


def test_calibration_without_text_or_blocks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(ConvertError, match="fewer than 64 tokens"):
        convert(DEMO, tmp_path / "demo", calibration=Calibration((tmp_path / "short.txt",)))
    with pytest.raises(ConvertError, match="cannot read the calibration text"):
        convert(DEMO, tmp_path / "demo", calibration=Calibration((tmp_path / "none.txt",)))


def test_a_mixture_records_how_often_its_experts_come_back(text: Path, tmp_path: Path) -> None:
    sizes = {**tiny.GQA, "vocab_size": 2048, "max_position_embeddings": 256}
    config = transformers.MixtralConfig(**sizes, num_local_experts=8, num_experts_per_tok=2, sliding_window=None)
    torch.manual_seed(0)  # of others, the least window may never hold what is wanted
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "mixture")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO / name, tmp_path / "mixture" / name)
    how = Calibration((text,), tokens=1024)
    bundle = convert(tmp_path / "mixture", tmp_path / "bundle", "f16", calibration=how).path
    weights = BundleWeights(bundle)
    ids = activity.token_runs(Tokenizer(bundle / "tokenizer"), activity.documents([text]), 1024, 256)
    chosen: dict[int, list[np.ndarray]] = {}  # by the reference's rule: softmax keeps the order of scores
    with Session(bundle, Options(context=256)) as session:
        for run in ids:
            session.reset()
            with session.capturing(lambda block, x: chosen.setdefault(block, []).append(x)):
                session.eval(run)
    blocks = {i: weights.data["model"]["blocks"][i] for i in chosen}
    scores = [np.concatenate(chosen[i]) @ weights.matrix(b["router"])[0].T for i, b in blocks.items()]
    needed = [np.argsort(np.argsort(-s, axis=1), axis=1) < 2 for s in scores]
    for described, curve in zip(blocks.values(), reuse_curves(needed), strict=True):
        assert described["reuse"] == [list(point) for point in curve]
        hits = [hit for _, hit in described["reuse"]]
        assert hits == sorted(hits)
        assert hits[0] < hits[-1]
        assert 0 < hits[2] < hits[-1] <= 1  # the least windows hold less than the two experts that a token needs
    with pytest.raises(ConvertError, match="only expert blocks"):
        convert(tmp_path / "mixture", tmp_path / "other", calibration=Calibration((text,), predictor=True))


def test_weights_of_a_norm_of_neurons_go_where_the_neurons_go(text: Path, tmp_path: Path) -> None:
    vocab = json.loads((DEMO / "config.json").read_text())["vocab_size"]
    config = transformers.BitNetConfig(**{**tiny.GQA, "num_hidden_layers": 1, "vocab_size": vocab})
    model = transformers.AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(model.model.layers[0].mlp.ffn_sub_norm.weight)
    model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.json").write_bytes((DEMO / "tokenizer.json").read_bytes())
    how = Calibration((text,), tokens=1024)
    plain = convert(tmp_path / "checkpoint", tmp_path / "plain", "f32").path
    moved = convert(tmp_path / "checkpoint", tmp_path / "moved", "f32", calibration=how).path
    one, other = (BundleWeights(p).matrix("layers.0.ffn")[0] for p in (plain, moved))
    assert not np.array_equal(one, other)
    ids = list(range(5, 35))
    with Session(plain, Options(cache_type="f32")) as a, Session(moved, Options(cache_type="f32", select="all")) as b:
        want, got = a.logits(ids), b.logits(ids)
    assert np.abs(want - got).max() <= 1e-4 * np.abs(want).max()  # sums in another order


def test_coactive_order_brings_together_what_fires_together() -> None:
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(16), 16))  # 16 groups of 16 neurons that fire as one
    fires = rng.random((400, 16)) < 0.1
    y = fires[:, group]
    order = coactive_order(y)
    assert np.array_equal(np.sort(order), np.arange(256))
    assert runs_per_token(y, order) < 0.15 * runs_per_token(y, np.arange(256))


def test_reference_knows_the_calibrated_bundle(calibrated: Path) -> None:
    ids = [1, 5, 9, 30, 200]
    want = Reference(calibrated).logits(ids)
    with Session(calibrated, Options(cache_type="f32", select="all")) as session:
        assert np.abs(session.logits(ids) - want).max() <= 1e-4 * np.abs(want).max()
