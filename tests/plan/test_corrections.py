"""A profile that is wrong is corrected by runs: arithmetic on made-up figures, and one real run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.plan import device, expectation
from edgekit.plan.corrections import (
    Corrections,
    Measured,
    corrected,
    corrections_path,
    load_corrections,
    save_corrections,
)
from edgekit.plan.device import Profile
from edgekit.plan.load import LoadMeter, share_of_others
from edgekit.plan.predict import Prediction, predict
from edgekit.runtime.model import kernel_sets, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests.conftest import ROOT
from tests.plan.test_plan import made_up

MADE = 1000.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = ROOT / "examples" / "demo_model" / "checkpoint"
    return convert(demo, tmp_path_factory.mktemp("corrections") / "demo", "q4", layout="split").path


def slower(profile: Profile, times: float) -> Profile:
    """The same device, as a machine that was busy saw it."""
    return replace(
        profile,
        stream=profile.stream / times,
        reads=tuple(replace(r, bytes_per_second=r.bytes_per_second / times) for r in profile.reads),
        kernels={name: rate / times for name, rate in profile.kernels.items()},
    )


def run_of(truth: Prediction, tokens: int = 32) -> Measured:
    """What a generation would measure on a device of which everything is known."""
    seconds = tokens / truth.tokens_per_second
    waited = max(0.0, seconds - tokens * truth.compute_seconds)  # a rounding error below 0 is no time
    return Measured(tokens, seconds, waited, tokens * truth.bytes_per_token)


# What the device does with arithmetic and with reads, bytes per second: the first or the second limits, or neither.
DEVICES = {"arithmetic": (1e7, 1e12), "flash": (1e10, 1e6), "both": (2e8, 3e7)}


@pytest.mark.parametrize(("kernel", "stream"), DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("select", ["all", "exact"])
@pytest.mark.parametrize("wrong", [3.0, 1 / 3])
def test_predictions_converge_to_what_runs_measure(
    kernel: float, stream: float, select: str, wrong: float, bundle: Path
) -> None:
    right = replace(made_up(stream, kernel), made=MADE)
    floor = plan_bundle(bundle, Options(context=64, batch=8, select=select)).floor_bytes
    options = Options(ram=floor + 10_000, context=64, batch=8, select=select)
    truth = predict(bundle, options, right)
    doctored = slower(right, wrong)
    first = predict(bundle, options, doctored, Corrections(MADE))
    assert abs(math.log(first.tokens_per_second / truth.tokens_per_second)) > math.log(1.25)
    now, far = Corrections(MADE), math.inf
    for run in range(8):
        now = corrected(now, predict(bundle, options, doctored, now), run_of(truth))
        distance = abs(math.log(predict(bundle, options, doctored, now).tokens_per_second / truth.tokens_per_second))
        assert distance <= far + 1e-9
        assert now.runs == run + 1
        far = distance
    assert far < math.log(1.25)


def test_a_right_profile_stays(bundle: Path) -> None:
    truth = predict(bundle, Options(context=64, select="all"), made_up(1e8, 1e9))
    after = corrected(Corrections(0.0), truth, run_of(truth))
    assert (after.compute, after.read) == pytest.approx((1, 1))
    assert after.runs == 1


def test_one_wild_run_moves_a_factor_by_two_at_most(bundle: Path) -> None:
    truth = predict(bundle, Options(context=64, select="all"), made_up(1e8, 1e9))
    run = run_of(truth)
    after = corrected(Corrections(0.0), truth, replace(run, seconds=run.seconds * 1000))
    assert after.compute == pytest.approx(2)
    assert after.read == 1


@pytest.mark.parametrize(
    "run", [Measured(7, 1.0, 0.0, 0), Measured(32, 0.0, 0.0, 0), Measured(32, 1.0, 1.0, 5), Measured(32, 1.0, -1.0, 5)]
)
def test_a_run_that_measured_nothing_teaches_nothing(run: Measured, bundle: Path) -> None:
    expected = predict(bundle, Options(context=64), made_up())
    assert corrected(Corrections(5.0, 2.0, 3.0, 4), expected, run) == Corrections(5.0, 2.0, 3.0, 4)


def test_corrections_come_back_and_belong_to_one_profile(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    assert load_corrections(profile, MADE) == Corrections(MADE)
    save_corrections(profile, Corrections(MADE, 0.5, 2.0, 3))
    assert corrections_path(profile) == tmp_path / "profile.corrections.json"
    assert load_corrections(profile, MADE) == Corrections(MADE, 0.5, 2.0, 3)
    assert load_corrections(profile, MADE + 1) == Corrections(MADE + 1)


TORN = [
    '{"made": 10',
    "",
    "[1]",
    "null",
    "[" * 100_000,
    '{"made": 1000.0, "compute": 0}',
    '{"made": 1000.0, "compute": NaN}',
    '{"made": 1000.0, "read": "x"}',
    '{"made": 1000.0, "runs": -1}',
    '{"made": 1000.0, "other": 1}',
]


@pytest.mark.parametrize("text", TORN, ids=range(len(TORN)))
def test_a_torn_file_of_corrections_is_ignored_with_a_word(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "profile.json"
    corrections_path(profile).write_text(text)
    assert load_corrections(profile, MADE) == Corrections(MADE)
    err = capsys.readouterr().err
    assert err.startswith("edgekit: warning: ignored ")
    assert err.count("\n") == 1


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    save_corrections(tmp_path / "file" / "profile.json", Corrections(MADE))
    assert "warning" in capsys.readouterr().err


@pytest.fixture
def profile(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile in the place of this machine's, of how the demo model runs on it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Session(bundle, Options()) as session:
        threads = session.threads
    made = replace(made_up(), threads=threads, kernel_set=kernel_sets()[0], made=time.time() - 7200)
    made.save(device.default_path())
    return made


def plan(bundle: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", str(bundle), "-c", "64", "--json", *more]) == 0
    table: dict[str, Any] = json.loads(capsys.readouterr().out)
    return table


@pytest.mark.parametrize(
    "command", [["run", "-p", "Once", "-n", "24", "--ignore-eos", "-q"], ["bench", "-n", "16", "-q"]]
)
def test_a_real_run_corrects_the_profile_and_plan_says_so(
    command: list[str], bundle: Path, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plan(bundle, capsys)
    assert before["profile"]["runs"] == 0
    assert before["profile"]["age_seconds"] >= 7200
    assert main([command[0], str(bundle), *command[1:]]) == 0
    found = load_corrections(device.default_path(), profile.made)
    assert found.runs == 1
    assert found.compute != 1
    after = plan(bundle, capsys)
    assert after["profile"]["runs"] == 1
    assert after["plans"][0]["tokens_per_second"] != before["plans"][0]["tokens_per_second"]
    assert main(["plan", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "2 hours old, 1 run corrected it" in out


@pytest.mark.parametrize(
    "other",
    [
        lambda p: replace(p, threads=p.threads + 1),
        lambda p: replace(p, kernel_set="another"),
    ],
)
def test_a_run_unlike_the_profile_teaches_nothing(
    other: Callable[[Profile], Profile], bundle: Path, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    other(profile).save(device.default_path())
    assert main(["run", str(bundle), "-p", "Once", "-n", "24", "--ignore-eos", "-q"]) == 0
    assert not corrections_path(device.default_path()).exists()
    capsys.readouterr()


def test_reads_of_the_other_kind_teach_nothing(bundle: Path, profile: Profile) -> None:
    expected = expectation.expect(bundle, Options(context=64))
    assert expected is not None
    names: dict[str, Any] = {"threads": profile.threads, "kernel_set": profile.kernel_set}
    expectation.learn(expected, Measured(32, 1.0, 0.5, 1000), **names, direct=not profile.direct)
    assert not corrections_path(expected.path).exists()
    expectation.learn(expected, Measured(32, 1.0, 0.0, 0), **names, direct=not profile.direct)
    assert corrections_path(expected.path).exists()


def test_a_busy_machine_is_seen_and_named(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made_up().doubts == ()
    assert device.spread([[1.0, 2.0], [1.0, 1.0], [3.0, 4.0]]) == pytest.approx(0.25)
    assert share_of_others(used=8.0, available=10.0, own=3.0) == pytest.approx(0.5)
    assert share_of_others(used=2.0, available=10.0, own=3.0) == 0
    busy = replace(made_up(), others=0.4, load_average=7.5, cores=2, spread=0.6)
    assert len(busy.doubts) == 3
    path = tmp_path / "profile.json"
    busy.save(path)
    assert main(["plan", str(bundle), "--profile", str(path)]) == 0
    out = capsys.readouterr().out
    assert "busy machine" in out
    assert "40%" in out
    assert "7.5 on 2 cores" in out


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system does not count processor time in /proc")
def test_the_meter_sees_another_process_at_work() -> None:
    meter = LoadMeter()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    others = meter.others()
    assert others is not None
    assert 0 < others <= 1


def test_a_profile_keeps_the_state_of_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "profile.json", tmp_path / "data.bin"
    file.write_bytes(bytes(4 << 20))
    begin = time.time()
    assert main(["profile", "--file", str(file), "--seconds", "0.005", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    made = device.load(out)
    assert begin <= made.made <= time.time()
    assert made.spread > 0
    assert made.cores >= 1
    assert made.kernel_set == kernel_sets()[0]
    assert ("busy" in captured.err) == bool(made.doubts)
