"""Graphs that are not language models: decoded weights are the codec's, outputs stay close, bad files are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner

from benchmarks.graphs import picture, speech
from edgekit.cli.main import cli, main
from edgekit.converters.coreml.interpreter import Program
from edgekit.converters.graphs.coder import Scheme
from edgekit.converters.graphs.convert import compare, compress, load
from edgekit.converters.graphs.modules import INPUT, OUTPUT, export_module
from edgekit.errors import ConvertError
from tests import resnet

SCHEMES = [Scheme("palette", b) for b in (8, 6, 4, 3, 2, 1)] + [Scheme("affine", b) for b in (8, 4)]


class Small(torch.nn.Module):
    """One of each: grouped and transposed convolution, a product both ways, a recurrent cell, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 24, 3, padding=1)
        self.depth = torch.nn.Conv2d(24, 24, 5, groups=24, padding=2)
        self.up = torch.nn.ConvTranspose2d(24, 8, 3)
        self.lstm = torch.nn.LSTM(10, 16, batch_first=True)
        self.out = torch.nn.Linear(16, 37)
        self.table = torch.nn.Parameter(torch.randn(37, 21))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(self.depth(self.conv(x)).relu())
        y, _ = self.lstm(y.flatten(2).transpose(1, 2)[:, :20, :].repeat(1, 1, 2)[:, :, :10])
        return self.out(y) @ self.table


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("graph") / "small.onnx"
    torch.onnx.export(Small().eval(), (torch.zeros(1, 3, 8, 8),), str(path), dynamo=True, verbose=False,
                      external_data=False)  # fmt: skip
    return path


def run(path: Path, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return session.run(None, inputs or {n: np.ones((1, 3, 8, 8), np.float32) for n in names})


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.method}{s.bits}")
def test_graphs_compute_with_exactly_the_coded_weights(scheme: Scheme, small: Path, tmp_path: Path) -> None:
    done = compress(small, tmp_path / "out.onnx", scheme)
    assert done.tensors >= 5
    # The oracle: the original with its weights replaced by what the coder says they decode to.
    from edgekit.converters.graphs import coder as graph_coder

    decoded: dict[str, np.ndarray] = {}
    original = graph_coder.GraphCoder._decoded
    coder = graph_coder.GraphCoder

    def keep(self, name, tensor, codes, *tables):  # type: ignore[no-untyped-def]
        encode = self._palette if scheme.method == "palette" else self._affine
        after = encode(tensor.rows)[2]
        decoded[str(tensor.value.name)] = (after.T if tensor.turned else after).reshape(tensor.shape)
        return original(self, name, tensor, codes, *tables)

    try:
        coder._decoded = keep  # type: ignore[method-assign]
        compress(small, tmp_path / "again.onnx", scheme)
    finally:
        coder._decoded = original  # type: ignore[method-assign]
    model = load(small)
    for name, values in decoded.items():
        model.graph.initializers[name].const_value = ir.tensor(values.astype(np.float32), name=name)
    ir.save(model, tmp_path / "replaced.onnx")
    for got, want in zip(run(tmp_path / "out.onnx"), run(tmp_path / "replaced.onnx"), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


@pytest.mark.parametrize("method", ["palette", "affine"])
def test_half_precision_graphs_stay_in_half_precision(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 24, 3), torch.nn.ReLU(), torch.nn.Conv2d(24, 16, 3)).eval().half()
    source, x = tmp_path / "half.onnx", torch.randn(1, 3, 8, 8).half()
    torch.onnx.export(net, (x,), str(source), dynamo=True, verbose=False, external_data=False)
    done = compress(source, tmp_path / "out.onnx", Scheme(method, 8))
    assert done.tensors == 2
    name = ort.InferenceSession(str(source)).get_inputs()[0].name
    (want,), (got,) = run(source, **{name: x.numpy()}), run(done.path, **{name: x.numpy()})
    assert got.dtype == want.dtype == np.float16
    largest = np.abs(want.astype(np.float32)).max()
    assert np.abs(got.astype(np.float32) - want).max() <= 0.02 * largest  # 8 bits, and f16 sums in another order


def test_fewer_bits_make_smaller_files_and_larger_errors(small: Path, tmp_path: Path) -> None:
    done = [compress(small, tmp_path / "out.onnx", Scheme("palette", b), overwrite=True) for b in (8, 6, 4, 2)]
    assert [d.bytes_after for d in done] == sorted((d.bytes_after for d in done), reverse=True)
    assert [d.relative_rms for d in done] == sorted(d.relative_rms for d in done)


@pytest.mark.parametrize("name", ["version-slim-320", "version-RFB-320"])
def test_detectors_stay_close_at_eight_bits(name: str, data: Path, tmp_path: Path) -> None:
    source = data / "vision" / f"{name}.onnx"
    for method in ("affine", "palette"):
        done = compress(source, tmp_path / "out.onnx", Scheme(method, 8), overwrite=True)
        assert done.bytes_after < 0.45 * done.bytes_before
        assert all(d.relative_rms < 0.005 for d in compare(source, done.path, {"input": picture()}))


def test_speech_decisions_agree_at_eight_bits(data: Path, tmp_path: Path) -> None:
    source, sound = data / "audio" / "silero_vad.onnx", data / "audio" / "test.wav"
    want = speech(source, sound)
    assert (want > 0.5).mean() == pytest.approx(0.705, abs=0.005)  # the known figure
    for method in ("affine", "palette"):
        done = compress(source, tmp_path / "out.onnx", Scheme(method, 8), overwrite=True)
        got = speech(done.path, sound)
        assert ((got > 0.5) == (want > 0.5)).mean() >= 0.99


@pytest.mark.parametrize("depth", [20, 56])
def test_a_torch_module_goes_to_onnx_and_core_ml(depth: int, data: Path, tmp_path: Path) -> None:
    net = resnet.load(data, depth)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = net(x).numpy()
    onnx = export_module(net, x, tmp_path / "net.onnx", Scheme("palette", 8))
    package = export_module(net, x, tmp_path / "net.mlpackage", Scheme("palette", 8))
    for done in (onnx, package):
        assert done.bytes_after < 0.55 * done.bytes_before
        assert done.relative_rms < 0.01
    name = ort.InferenceSession(str(onnx.path)).get_inputs()[0].name
    got = [run(onnx.path, **{name: x.numpy()})[0], Program(package.path).run("main", **{INPUT: x.numpy()})[OUTPUT]]
    for logits in got:
        assert logits.argmax() == want.argmax()
        assert np.abs(logits - want).max() <= 0.05 * np.abs(want).max()


def test_modules_that_cannot_be_exported_are_told(tmp_path: Path) -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ConvertError, match=r"\.mlpackage or \.onnx"):
        export_module(Small(), x, tmp_path / "out.bin")
    with pytest.raises(ConvertError, match="no weights"):
        export_module(torch.nn.ReLU(), x, tmp_path / "out.onnx")
    with pytest.raises(ConvertError, match="take palettes"):
        export_module(Small(), x, tmp_path / "out.mlpackage", Scheme("affine", 8))
    with pytest.raises(ConvertError, match="not palette 5"):
        Scheme("palette", 5)
    assert not list(tmp_path.iterdir())


def test_the_command_line_converts_and_checks_graphs(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    done = CliRunner().invoke(cli, ["convert", str(small), "-o", str(out), "--recipe", "palette6", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["bytes_after"] == out.stat().st_size
    np.savez(
        tmp_path / "in.npz", **{ort.InferenceSession(str(small)).get_inputs()[0].name: np.ones((1, 3, 8, 8), "f4")}
    )
    arguments = ["check", str(out), "--against", str(small), "--input", str(tmp_path / "in.npz"), "--json"]
    told = json.loads(CliRunner().invoke(cli, arguments).output)
    assert 0 < told["outputs"][0]["relative_rms"] < 0.2


def test_bad_graphs_have_one_line(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 100)
    (tmp_path / "cut.onnx").write_bytes(small.read_bytes()[:2000])
    outside = ir.load(small)
    first = next(iter(outside.graph.initializers.values()))
    assert first.const_value is not None
    (tmp_path.parent / "secret.bin").write_bytes(bytes(first.const_value.nbytes))
    first.const_value = ir.ExternalTensor(
        "../secret.bin",
        0,
        first.const_value.nbytes,
        ir.DataType.FLOAT,
        shape=first.const_value.shape,
        name=first.name or "",
    )
    ir.save(outside, tmp_path / "outside.onnx")
    for name, message in (
        ("noise.onnx", "not an ONNX model"),
        ("cut.onnx", "not an ONNX model"),
        ("none.onnx", "no such file"),
        ("outside.onnx", "outside the model's folder"),
    ):
        assert main(["convert", str(tmp_path / name), "-o", str(tmp_path / "out.onnx")]) == 1
        out = capsys.readouterr()
        assert message in out.err, out.err
        assert out.err.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()
    assert main(["convert", str(small), "-o", str(small)]) == 1
    assert "exists already" in capsys.readouterr().err


def test_weights_in_branches_and_at_outputs_give_a_valid_graph(tmp_path: Path) -> None:
    from onnx import TensorProto, checker, helper, numpy_helper, save

    w, v = (np.random.default_rng(i).standard_normal((32, 32)).astype(np.float32) for i in (0, 1))
    value = helper.make_tensor_value_info
    shape = ("x", TensorProto.FLOAT, [1, 32])

    def branch(name: str) -> object:
        nodes = [helper.make_node("MatMul", ["x", "w"], [f"{name}.m"]),
                 helper.make_node("MatMul", [f"{name}.m", f"{name}.v"], [f"{name}.y"])]  # fmt: skip
        out = value(f"{name}.y", TensorProto.FLOAT, [1, 32])
        return helper.make_graph(nodes, name, [], [out], [numpy_helper.from_array(v, f"{name}.v")])

    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("MatMul", ["x", "kept"], ["k"]),
             helper.make_node("If", ["c"], ["y"], then_branch=branch("a"), else_branch=branch("b"))]  # fmt: skip
    outputs = [value(n, TensorProto.FLOAT, [1, 32]) for n in "yzk"] + [value("kept", TensorProto.FLOAT, [32, 32])]
    held = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "kept")]
    graph = helper.make_graph(nodes, "g", [value(*shape), value("c", TensorProto.BOOL, [])], outputs, held)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "in.onnx")
    done = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Scheme("palette", 8))
    checker.check_model(str(done.path))
    assert done.path.stat().st_mode & 0o777 == (tmp_path / "in.onnx").stat().st_mode & 0o777
    given = {"x": np.ones((1, 32), np.float32), "c": np.array(True)}
    np.testing.assert_array_equal(run(done.path, **given)[3], v)
    for got, want in zip(run(done.path, **given), run(tmp_path / "in.onnx", **given), strict=True):
        assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()
    with pytest.raises(ConvertError, match="no such folder"):
        compress(tmp_path / "in.onnx", tmp_path / "none" / "out.onnx", Scheme())
