"""Artifacts on disk and on the command line: bytes, errors, checks that fail."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgekit.cli.main import cli, main
from edgekit.conversion import convert
from edgekit.converters import base
from edgekit.converters.base import Artifact, Choices, export
from edgekit.converters.check import check
from edgekit.converters.engines import open_engine
from edgekit.converters.kinds import KINDS
from edgekit.errors import BundleError, ConvertError
from edgekit.runtime.values import Options
from tests import tiny
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with every artifact."""
    path = convert(DEMO, tmp_path_factory.mktemp("demo") / "demo", "palette4").path
    for kind in KINDS:
        export(path, kind)
    return path


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Path:
    """One that may be damaged."""
    return Path(shutil.copytree(demo, tmp_path / "copy.edgekit"))


def fingerprint(artifact: Artifact) -> str:
    """SHA-256 over the names and bytes of all files."""
    digest = hashlib.sha256()
    for path in sorted(p for p in artifact.path.rglob("*") if p.is_file()):
        digest.update(json.dumps(path.relative_to(artifact.path).as_posix()).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_exporting_twice_gives_the_same_bytes(kind: str, demo: Path) -> None:
    first = fingerprint(base.read(demo, kind))
    code = f"import sys; from edgekit.converters.base import export; export(sys.argv[1], '{kind}', overwrite=True)"
    subprocess.run([sys.executable, "-c", code, str(demo)], check=True, cwd=ROOT, capture_output=True)
    assert fingerprint(base.read(demo, kind)) == first


def test_a_palettized_package_has_nearly_the_ideal_size(demo: Path) -> None:
    data = json.loads((demo / "manifest.json").read_text())
    bits = sum(
        m["rows"] * p["cols"] * p["bits"]
        + (16 * m["rows"] * -(-p["cols"] // p["group_size"]) if p["codec"] == "affine" else 0)
        + (16 * -(-m["rows"] // p["lut_rows"]) * 2 ** p["bits"] if p["codec"] == "palette" else 0)
        for m in data["matrices"]
        for p in m["parts"]
    )
    about = base.read(demo, "coreml").about
    bits += sum(2 * 16 * about["context"] * rope["dim"] // 2 for rope in data["model"]["ropes"])  # cos and sin
    folder = demo / "artifacts"
    weights = folder / "coreml" / "model.mlpackage" / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    assert weights.stat().st_size <= 1.03 * bits / 8
    assert (folder / "coreai" / "model.aimodel" / "main.mlirb").stat().st_size <= 1.05 * bits / 8


def test_check_finds_all_of_them_right(demo: Path) -> None:
    kinds = set(KINDS) - {"gguf"}  # llama.cpp is no package of the tests: test_gguf_export.py
    found = {v.kind: v for v in check(demo, sorted(kinds), tokens=24)}
    assert set(found) == kinds
    for kind, verdict in found.items():
        assert verdict.ok
        assert verdict.top1 is not None, verdict.note
        assert (verdict.limit is None) == (kind in ("onnx", "mlx")), kind  # the two that re-quantize
        assert verdict.same_text or verdict.limit is None


def test_check_fails_when_weights_were_changed(copy: Path) -> None:
    file = copy / "artifacts" / "onnx-exact" / "model.onnx.data"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 :] = bytes(b ^ 0x55 for b in raw[len(raw) // 2 :])
    file.write_bytes(raw)
    with pytest.raises(BundleError, match="not what was exported"):
        check(copy, ["onnx-exact"])
    about = copy / "artifacts" / "onnx-exact" / "edgekit.json"  # as if it had been exported so
    told = json.loads(about.read_text())
    told["files"] = [f for f in base._files(about.parent) if f["path"] != "edgekit.json"]
    about.write_text(json.dumps(told))
    (verdict,) = check(copy, ["onnx-exact"], tokens=12)
    assert not verdict.ok
    done = CliRunner().invoke(cli, ["check", str(copy), "--to", "onnx-exact", "-n", "12"])
    assert done.exit_code != 0


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("onnx", "model.onnx"),
        ("coreml", "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"),
        ("coreai", "model.aimodel/main.mlirb"),
        ("mlx", "config.json"),
        ("mlx-exact", "config.json"),
        ("mlx-exact", "weights.safetensors"),
    ],
)
def test_a_damaged_artifact_is_told_in_one_line(kind: str, file: str, copy: Path) -> None:
    path = copy / "artifacts" / kind / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    done = CliRunner().invoke(cli, ["check", str(copy), "--to", kind, "-n", "8"])
    told = (
        [str(done.exception)] if isinstance(done.exception, (ConvertError, BundleError)) else done.output.splitlines()
    )
    assert any("artifacts" in line and kind in line for line in told), (done.output, done.exception)
    assert "Traceback" not in done.output


def test_other_versions_and_other_bundles_are_refused(copy: Path) -> None:
    about = copy / "artifacts" / "onnx" / "edgekit.json"
    told = json.loads(about.read_text())
    for change, message in (
        ({"version": 2}, "artifact version 2"),
        ({"bundle": "0" * 16}, "another bundle"),
        ({"kind": "mlx"}, "does not describe"),
    ):
        about.write_text(json.dumps({**told, **change}))
        with pytest.raises(BundleError, match=message):
            check(copy, ["onnx"])
    about.write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        check(copy, ["onnx"])
    about.unlink()
    with pytest.raises(BundleError, match="no such artifact"):
        check(copy, ["onnx"])


def test_hostile_weights_are_refused_before_mlx_sees_them(copy: Path) -> None:
    for kind, name in (("mlx", "model.safetensors"), ("mlx-exact", "weights.safetensors")):
        file = copy / "artifacts" / kind / name
        raw = bytearray(file.read_bytes())
        at = raw.index(b'"data_offsets":[0,')
        raw[at : at + 18] = b'"data_offsets":[9,'
        file.write_bytes(raw)
        with pytest.raises(ConvertError, match="missing or damaged"):
            open_engine(copy, kind, Options())


@pytest.mark.parametrize("change", [{"files": 3}, {"files": [3]}, {"files": [{}]}, {"context": "x"}, {"context": -1}])
def test_malformed_descriptions_are_told(change: dict[str, object], copy: Path) -> None:
    about = copy / "artifacts" / "onnx" / "edgekit.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), **change}))
    with pytest.raises(BundleError, match="artifacts/onnx"):
        check(copy, ["onnx"])


def test_errors_have_one_line(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, message in (
        (["export", str(demo), "--to", "tflite"], "target 'tflite' is unknown"),
        (["export", str(demo), "--to", "onnx"], "exists already"),
        (["export", str(tmp_path), "--to", "onnx"], "not a bundle"),
        (["export", str(demo), "--to", "onnx", "--overwrite", "-c", "9999"], "beyond 512"),
        (["convert", str(DEMO), "-o", str(tmp_path / "x"), "--to", "native,tflite"], "target 'tflite' is unknown"),
        (["run", str(demo), "-p", "a", "--backend", "coreml"], "Apple devices only"),
        (["run", str(demo), "-p", "a", "--backend", "onnx", "--ram", "1G"], "no budget"),
        (["run", str(demo), "-p", "a", "--backend", "onnx-flash", "--ram", "1K"], "too small"),
        (["run", str(demo), "-p", "a", "--backend", "mlx", "-c", "600"], "beyond the artifact's 512"),
        (["run", str(demo), "-p", "a", "--backend", "onnx", "--prompt-cache", str(tmp_path / "c")], "native backend"),
    ):
        assert main(command) == 1, command
        out = capsys.readouterr()
        assert message in out.err, command
        assert out.err.count("\n") == 1, out.err
    assert not (tmp_path / "x.edgekit").exists()


def test_a_missing_package_names_the_pip_command(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, package, extra in (("onnx", "onnx_ir", "onnx"), ("coreml", "coremltools", "coreml")):
        with monkeypatch.context() as patch:
            rooms = ("edgekit.converters.onnx.", "edgekit.converters.coreml.")
            for name in [n for n in sys.modules if n.startswith(rooms)]:
                patch.delitem(sys.modules, name)
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ConvertError, match=rf"pip install 'edgekit\[{extra}\]'"):
                export(demo, kind, overwrite=True)


def test_an_export_that_fails_leaves_what_was_there(copy: Path) -> None:
    before = fingerprint(base.read(copy, "onnx"))
    with pytest.raises(ConvertError):
        export(copy, "onnx", Choices(context=9999), overwrite=True)
    assert fingerprint(base.read(copy, "onnx")) == before
    assert not list((copy / "artifacts").glob("*.partial"))


def test_a_damaged_bundle_is_not_exported(copy: Path) -> None:
    before = fingerprint(base.read(copy, "onnx"))
    with (copy / "flash.bin").open("r+b") as file:
        file.seek(4096)
        byte = file.read(1)[0]
        file.seek(4096)
        file.write(bytes([byte ^ 0x41]))
    with pytest.raises(BundleError, match="checksum"):
        export(copy, "onnx", overwrite=True)
    assert fingerprint(base.read(copy, "onnx")) == before


def test_an_export_tidies_up_after_a_killed_one_and_touches_nothing_else(copy: Path) -> None:
    folder = copy / "artifacts"
    shutil.copytree(folder / "onnx", folder / "onnx.old")
    shutil.copytree(folder / "onnx", folder / "onnx.partial" / "output")
    (folder / "onnx.partial" / "edgekit.lock").touch()
    assert {a.kind for a in base.find(copy)} == set(KINDS)
    export(copy, "onnx", overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*KINDS, "onnx.old"])


def test_run_reports_a_backend(demo: Path) -> None:
    arguments = ["run", str(demo), "-p", "Once upon a time", "-n", "12", "--temp", "0", "--json"]
    told = {}
    for backend in ("native", "onnx-exact", "mlx-exact"):
        done = CliRunner().invoke(cli, [*arguments, "--backend", backend])
        assert done.exit_code == 0, done.output
        told[backend] = json.loads(done.output)
    assert told["onnx-exact"]["token_ids"] == told["native"]["token_ids"] == told["mlx-exact"]["token_ids"]
    assert told["onnx-exact"]["backend"] == "onnx-exact"
    assert told["onnx-exact"]["tokens_per_second"] > 0


@pytest.mark.parametrize("backend", ["mlx-exact", "onnx-flash"])
def test_flash_variants_read_feed_forward_blocks_within_a_budget(backend: str, demo: Path) -> None:
    arguments = ["run", str(demo), "-p", "Once upon a time", "-n", "12", "--temp", "0", "--json"]
    native = json.loads(CliRunner().invoke(cli, arguments).output)
    flags = ["--backend", backend, "--ram", "1500K"]
    done = json.loads(CliRunner().invoke(cli, [*arguments, *flags]).output)
    assert done["token_ids"] == native["token_ids"]
    assert 0 < done["peak_memory_bytes"] <= 1500 << 10
    assert done["bytes_read_per_token"] > 0


def test_ropes_that_change_with_the_length_bound_the_context(tmp_path: Path) -> None:
    tiny.make("phi3_longrope", tmp_path / "checkpoint")
    bundle = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    assert export(bundle, "onnx").about["context"] == 24
    with pytest.raises(ConvertError, match="rotary frequencies change"):
        export(bundle, "onnx", Choices(context=100), overwrite=True)


def test_convert_makes_artifacts_too(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = CliRunner().invoke(cli, ["convert", str(DEMO), "-o", str(out), "--to", "native,onnx", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert [a["kind"] for a in told["artifacts"]] == ["onnx"]
    assert np.isclose(told["artifacts"][0]["requantized_rms"], 0.094, atol=0.02)
    assert CliRunner().invoke(cli, ["verify", str(tmp_path / "demo.edgekit")]).exit_code == 0
