"""Settings of the operators for ONNX Runtime: read strictly, as everywhere else."""

from __future__ import annotations

import ctypes as c
import secrets
from pathlib import Path

import onnxruntime as ort
import pytest

from edgekit.conversion import convert
from edgekit.converters.base import export
from edgekit.runtime import native
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.values import Options, plan_from
from edgekit.sizes import parse_bytes
from tests.conftest import ROOT

REFUSED = ["0", "abc", "-1", "-1M", "0.1", "1X", "1 2", "1..5", ".", "G", "1e9", "0x10", "99999999999G", "9" * 30, "+1"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = ROOT / "examples" / "demo_model" / "checkpoint"
    path = convert(demo, tmp_path_factory.mktemp("settings") / "demo", "q8").path
    export(path, "onnx-flash")
    return path


def budget(bundle: Path, **entries: str) -> int:
    """Opens a session with configuration entries; the budget that its operators got, in bytes."""
    name = secrets.token_hex(8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    for key, value in {"bundle": str(bundle), "id": name, **entries}.items():
        options.add_session_config_entry(f"ai.edgekit.{key}", value)
    library = str(native.library_path("libedgekit_onnx"))
    options.register_custom_ops_library(library)
    model = str(bundle / "artifacts" / "onnx-flash" / "model.onnx")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    stats, plan = native.Stats(), native.Plan()
    assert c.CDLL(library).edgekit_onnx_stats(name.encode(), c.byref(stats), c.byref(plan)) == 0
    del session
    return plan_from(plan).budget_bytes


@pytest.mark.parametrize("text", REFUSED)
def test_a_budget_that_is_no_size_is_refused(text: str, bundle: Path) -> None:
    with pytest.raises(Exception, match=r"ai\.edgekit\.ram") as caught:
        budget(bundle, ram=text)
    assert f"'{text}'" in str(caught.value)


def test_the_variable_is_read_as_strictly(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_RAM", "much")
    with pytest.raises(Exception, match="EDGEKIT_RAM"):
        budget(bundle)


def test_sizes_mean_what_they_mean_on_the_command_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floor = plan_bundle(bundle, Options(compute="linear")).floor_bytes
    near = floor + 4096
    texts = [str(near), f" {near / 2**20:.9f}m ", f"{near / 2**30:.15f}GiB", f"{near / 2**10:.4f} kb"]
    for text in texts:
        assert budget(bundle, ram=text) == parse_bytes(text)
    fraction = f"{near / 2**30:.12f}G".removeprefix("0")
    assert fraction.startswith(".")
    monkeypatch.setenv("EDGEKIT_RAM", fraction)
    assert budget(bundle) == parse_bytes(fraction)
    assert near - 1 <= parse_bytes(fraction) <= near


def test_a_third_of_a_gibibyte_is_a_limit(bundle: Path) -> None:
    assert budget(bundle, ram=".3G") == parse_bytes(".3G") == int(0.3 * 2**30)


@pytest.mark.parametrize("name", ["threads", "select", "parts"])
@pytest.mark.parametrize("text", ["two", "-1", "1.5", "99999999999"])
def test_counts_that_are_none_are_refused(name: str, text: str, bundle: Path) -> None:
    with pytest.raises(Exception, match=rf"ai\.edgekit\.{name}"):
        budget(bundle, **{name: text})
