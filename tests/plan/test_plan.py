"""The profile's arithmetic and the plan's, on figures made up so that the answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli
from edgekit.conversion import convert
from edgekit.errors import RuntimeFailure
from edgekit.plan import device
from edgekit.plan.device import KERNELS, Profile, Reads, kernel_name
from edgekit.plan.predict import predict
from edgekit.plan.reuse import hit_rates, interpolate, reuse_curves
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import tiny


def made_up(stream: float = 1e6, kernel: float = 1e12) -> Profile:
    reads = tuple(Reads(s, d, 1e6 * s / 4096) for s in (4096, 65536) for d in (1, 128))
    rates = {kernel_name(c, b): kernel for c, b in KERNELS}
    return Profile("made up", 2, True, "uring", stream, stream, reads, rates)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    tiny.make("llama_relu", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "bundle", "f16", layout="split").path


def test_reads_between_measured_sizes_are_interpolated() -> None:
    profile = made_up()
    assert profile.read_seconds(4096, 100, 128) == pytest.approx(100 * 4096 / 1e6)
    assert profile.read_seconds(65536, 10, 1) == pytest.approx(10 * 4096 / 1e6)
    assert profile.read_seconds(8192, 0, 1) == 0
    assert profile.read_seconds(131072, 1, 128) == pytest.approx(131072 / 16e6)


def test_streaming_on_a_slow_device_takes_bytes_over_bandwidth(bundle: Path) -> None:
    options = Options(context=64, batch=8, select="all")
    options = Options(ram=plan_bundle(bundle, options).floor_bytes, context=64, batch=8, select="all")
    expected = predict(bundle, options, made_up(stream=1e6))
    plan = plan_bundle(bundle, options)
    assert expected.bytes_per_token == plan.streamed_bytes > 0
    assert expected.tokens_per_second == pytest.approx(1e6 / plan.streamed_bytes, rel=1e-6)
    assert "flash is what limits it" in expected.why[-1]
    with Session(bundle, options) as session:
        session.eval([5, 6])
        before = session.stats.generation_bytes_read
        for token in range(10, 20):
            session.eval([token])
        measured = (session.stats.generation_bytes_read - before) / 10
    assert measured == pytest.approx(expected.bytes_per_token, rel=0.02)


def test_resident_on_a_slow_processor_takes_bytes_over_the_kernels_rate(bundle: Path) -> None:
    expected = predict(bundle, Options(context=64, select="all"), made_up(kernel=1e6))
    assert expected.bytes_per_token == 0
    assert "arithmetic is what limits it" in expected.why[-1]
    assert expected.tokens_per_second == pytest.approx(1 / expected.compute_seconds)


def test_hit_rates_of_known_activity() -> None:
    tokens, units = 400, 100
    steady = np.zeros((tokens, units), np.bool_)
    steady[:, :10] = True
    never = np.zeros((tokens, units), np.bool_)
    assert hit_rates([steady, never], 0.05) == [1.0, 1.0]
    rng = np.random.default_rng(0)
    uniform = [rng.random((tokens, units)) < 0.1 for _ in range(4)]
    assert hit_rates(uniform, 0.5) == pytest.approx([0.5] * 4, abs=0.05)
    assert hit_rates(uniform, 0.01) == pytest.approx([0.01] * 4, abs=0.02)  # less than a block needs at once


def test_reuse_curves_rise_to_all_of_it() -> None:
    rng = np.random.default_rng(0)
    (curve,) = reuse_curves([rng.random((300, 100)) < 0.1])
    assert [s for s, _ in curve] == sorted(s for s, _ in curve)
    assert [h for _, h in curve] == sorted(h for _, h in curve)
    assert interpolate(curve, 1.0) == 1
    assert interpolate([(0.5, 0.4)], 0.25) == pytest.approx(0.2)
    assert reuse_curves([]) == []


def test_profile_is_measured_saved_and_read_back(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    file = tmp_path / "data.bin"
    file.write_bytes(bytes(4 << 20))
    arguments = ["profile", "--file", str(file), "--seconds", "0.005", "-o", str(out), "--json"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    made = device.load(out)
    assert made.first_touch > 0
    assert {r.size for r in made.reads} == set(device.SIZES)
    assert all(v > 0 for v in made.kernels.values())
    assert {"affine4", "affine4.f32", "affine4.down", "trellis3", "trellis3.down"} <= set(made.kernels)
    done = CliRunner().invoke(cli, ["plan", str(bundle), "--sweep", "4", "--profile", str(out), "--json", "-c", "64"])
    assert done.exit_code == 0, done.output
    plans = json.loads(done.output)["plans"]
    assert len(plans) == 4
    assert [p["bytes_per_token"] for p in plans] == sorted((p["bytes_per_token"] for p in plans), reverse=True)
    shown = CliRunner().invoke(cli, ["plan", str(bundle), "--profile", str(out)])
    assert "expected" in shown.output


def test_a_missing_or_foreign_profile_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailure, match="edgekit profile"):
        device.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(RuntimeFailure, match="run 'edgekit profile' again"):
        device.load(tmp_path / "bad.json")


def test_a_prediction_knows_what_activations_cost(tmp_path: Path) -> None:
    tiny.make("llama", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q4").path
    profile = made_up()
    slow = replace(profile, kernels={**profile.kernels, kernel_name("affine", 4, activations="f32"): 1e3})
    assert kernel_name("affine", 4, activations="f32") == "affine4.f32"
    assert kernel_name("palette", 4, activations="f32") == "palette4"
    speeds = {a: predict(bundle, Options(activations=a), slow).tokens_per_second for a in ("auto", "int8", "f32")}
    assert speeds["auto"] == speeds["int8"] > 10 * speeds["f32"]
