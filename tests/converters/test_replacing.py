"""What exports and graphs may replace, and which graphs count as whole."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.converters.base import export
from edgekit.converters.graphs import convert as graphs
from edgekit.converters.graphs.coder import Scheme
from edgekit.converters.graphs.modules import export_module
from edgekit.errors import ConvertError
from tests.conftest import ROOT

DEMO = ROOT / "examples" / "demo_model" / "checkpoint"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("whole") / "demo", "q8").path


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "demo.edgekit"))


def graph(path: Path, *, domain: str = "", operator: str = "Relu", imported: bool = True) -> Path:
    """A product with a weight, then an operator of a domain."""
    w = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node(operator, ["z"], ["y"], domain=domain)]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 32]) for n in "xy")
    made = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(w, "w")])
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain and imported else [])
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), path)
    return path


def test_an_export_replaces_what_an_export_made_or_an_empty_folder(bundle: Path) -> None:
    target = bundle / "artifacts" / "mlx"
    target.mkdir(parents=True)
    export(bundle, "mlx", overwrite=True)
    (target / "edgekit.json").write_text("{")  # damaged, but a mark all the same
    export(bundle, "mlx", overwrite=True)
    assert json.loads((target / "edgekit.json").read_text())["kind"] == "mlx"
    with pytest.raises(ConvertError, match="exists already"):
        export(bundle, "mlx")


def test_an_export_keeps_what_it_did_not_make(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = bundle / "artifacts" / "mlx"
    mine = tmp_path / "mine"

    def folder(path: Path) -> None:
        path.mkdir()
        (path / "thesis.txt").write_text("keep")

    for make in (folder, lambda path: path.write_text("keep"), lambda path: (folder(mine), path.symlink_to(mine))):
        target.parent.mkdir(exist_ok=True)
        make(target)
        assert main(["export", str(bundle), "--to", "mlx", "--overwrite"]) == 1
        error = capsys.readouterr().err
        assert "not what an export made" in error
        assert error.count("\n") == 1
        kept = target / "thesis.txt" if target.is_dir() else target
        assert kept.read_text() == "keep"
        shutil.rmtree(target) if target.is_dir() and not target.is_symlink() else target.unlink()
    assert (mine / "thesis.txt").read_text() == "keep"
    target.parent.rmdir()
    target.parent.write_text("keep")
    assert main(["export", str(bundle), "--to", "mlx", "--overwrite"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert target.parent.read_text() == "keep"


def test_a_graph_replaces_only_files_named_as_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = graph(tmp_path / "in.onnx")
    (tmp_path / "thesis.txt").write_text("keep")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "thesis.txt")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("thesis.txt", "link.onnx", "folder.onnx"):
        assert main(["convert", str(source), "-o", str(tmp_path / name), "--overwrite"]) == 1
        error = capsys.readouterr().err
        assert "not an .onnx file" in error
        assert error.count("\n") == 1
    assert (tmp_path / "thesis.txt").read_text() == "keep"
    assert (tmp_path / "folder.onnx").is_dir()
    out = tmp_path / "out.onnx"
    out.write_bytes(b"damaged")
    assert main(["convert", str(source), "-o", str(out), "-q"]) == 1
    assert out.read_bytes() == b"damaged"
    assert main(["convert", str(source), "-o", str(out), "-q", "--overwrite"]) == 0
    onnx.checker.check_model(str(out))


def test_a_graph_is_never_its_own_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = graph(tmp_path / "in.onnx")
    (tmp_path / "link.onnx").symlink_to(source)
    before = source.read_bytes()
    for a, b in ((source, source), (source, tmp_path / "link.onnx"), (tmp_path / "link.onnx", source)):
        assert main(["convert", str(a), "-o", str(b), "--overwrite"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert source.read_bytes() == before


def test_a_module_replaces_only_packages(tmp_path: Path) -> None:
    import torch

    net, x = torch.nn.Sequential(torch.nn.Conv2d(3, 24, 3)).eval(), torch.zeros(1, 3, 8, 8)
    mine = tmp_path / "mine.mlpackage"
    mine.mkdir()
    (mine / "thesis.txt").write_text("keep")
    with pytest.raises(ConvertError, match="not a Core ML package"):
        export_module(net, x, mine, overwrite=True)
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    made = export_module(net, x, tmp_path / "net.mlpackage").path
    export_module(net, x, made, overwrite=True)
    assert (made / "Manifest.json").is_file()


def test_graphs_with_operators_of_others_are_checked_by_structure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = graph(tmp_path / "in.onnx", domain="my.house", operator="Mine"), tmp_path / "out.onnx"
    assert main(["convert", str(source), "-o", str(out)]) == 0
    assert "only the structure" in capsys.readouterr().err
    made = onnx.load(out)
    onnx.checker.check_model(made)
    assert "Mine" in [n.op_type for n in made.graph.node]
    assert "w" not in [t.name for t in made.graph.initializer]
    assert graphs.compress(graph(tmp_path / "plain.onnx"), out, Scheme(), overwrite=True).checked_by == "onnxruntime"


def test_graphs_are_made_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    done = graphs.compress(graph(tmp_path / "in.onnx"), tmp_path / "out.onnx", Scheme())
    assert done.checked_by == "onnx.checker"
    onnx.checker.check_model(str(done.path))


def test_graphs_that_are_not_valid_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source in (
        graph(tmp_path / "domain.onnx", domain="my.house", operator="Mine", imported=False),
        graph(tmp_path / "operator.onnx", operator="Relux"),
    ):
        assert main(["convert", str(source), "-o", str(tmp_path / "out.onnx")]) == 1
        error = capsys.readouterr().err
        assert str(source) in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()
    assert not list(tmp_path.glob("*.partial"))
