"""Any ONNX graph, smaller: weights of convolutions, matrix products and recurrent cells become palettes or affine
codes.

They are decoded in the graph, in operators that every opset since 7 has, so that any ONNX runtime opens the result;
onnxruntime folds them when it loads the model, after which it runs as fast as before.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.bundle.disk import write_file
from edgekit.bundle.workspace import check_apart, check_replaceable, output_path, workspace
from edgekit.converters import base
from edgekit.converters.graphs.coder import GraphCoder, Scheme, owner
from edgekit.converters.weights import Loss
from edgekit.errors import ConvertError, EdgekitError, MissingPackageError

# operator -> which inputs are weights; those of matrix products are [inputs, outputs]
WEIGHTS = {
    "Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1), "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2),
    "Gather": (0,), "Einsum": (0, 1),
}  # fmt: skip
MOVES = ("Slice", "Unsqueeze", "Squeeze", "Concat", "Transpose", "Reshape", "Identity", "Split", "Cast")  # on the way
LARGEST = (1 << 31) - (1 << 20)  # protobuf's limit
LEAST = 512  # weights of a tensor that is worth it

NAMES = {"q8": ("affine", 8), "q4": ("affine", 4), **{f"palette{b}": ("palette", b) for b in (8, 6, 4, 3, 2, 1)}}


def scheme_from(recipe: str | None, method: str | None, bits: int | None, group_size: int | None) -> Scheme:
    """A scheme from a preset's name or from method, bits and group size; palettes of 8 bits if nothing is said.

    Raises:
        ConvertError: no such preset for graphs, or both are given.
    """
    if recipe is not None and (method, bits, group_size) != (None, None, None):
        raise ConvertError("give either --recipe or --method/--bits/--group-size, not both")
    if recipe is not None and recipe not in NAMES:
        raise ConvertError(f"recipe '{recipe}' does not apply to an ONNX graph; it takes one of: {', '.join(NAMES)}")
    name, width = NAMES[recipe] if recipe else (method or "palette", 8 if bits is None else bits)
    return Scheme(name, width, 32 if group_size is None else group_size)


@dataclass(frozen=True)
class Compressed:
    """What was done.

    Attributes:
        path: the result.
        tensors: how many were coded.
        weights: how many weights are in them.
        bytes_before: size of the source, its external data included.
        bytes_after: size of the result.
        relative_rms: root mean square error of those weights over their own root mean square.
        checked_by: what found the result whole: "onnxruntime", which opened it; "onnx.checker", where onnxruntime is
            missing or cannot open the source either; "coremltools", which made it.
    """

    path: Path
    tensors: int
    weights: int
    bytes_before: int
    bytes_after: int
    relative_rms: float
    checked_by: str


def compress(source: Path, out: Path, scheme: Scheme, *, overwrite: bool = False) -> Compressed:
    """Writes a smaller graph.

    Raises:
        ConvertError: not an ONNX model, nothing to code in it, the output may not be replaced, or is the source.
    """
    target = output_path(out)
    check_graph(target, overwrite)
    check_apart(source, target)
    loss = Loss()
    with _one_line(source):
        made, tensors = _coded(source, scheme, loss)
    with workspace(target, resumes=False) as space:
        write_file(space.output, made)
        checked_by = _check_made(space.output, source)
        check_graph(target, overwrite)  # another process may have made it since
        space.place()
    size = out.stat().st_size
    return Compressed(out, tensors, loss.weights, _bytes(source), size, loss.relative_rms, checked_by)


@contextmanager
def _one_line(source: Path) -> Iterator[None]:
    """Turns whatever a graph makes onnx_ir raise into one error: it reads some that contradict themselves."""
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        raise ConvertError(f"{source}: is not a valid graph: {_line(error)}") from error


def _line(error: Exception) -> str:
    """An error of another library in one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _coded(source: Path, scheme: Scheme, loss: Loss) -> tuple[bytes, int]:
    """The smaller graph as a file holds it, and how many tensors were coded."""
    model = load(source)
    found = list(_weights(model))
    by_graph: dict[int, list[ir.Value]] = defaultdict(list)
    for value in found:
        by_graph[id(owner(value))].append(value)
    for number, values in enumerate(by_graph.values()):  # names of an inner graph must not repeat those around it
        prefix = f"edgekit.{number}." if number else "edgekit."
        GraphCoder(values, scheme, loss, model.opset_imports.get("", 1), prefix).replace()
    if not found:
        raise ConvertError(f"{source}: has no weights of {LEAST} values or more in {', '.join(WEIGHTS)}")
    model.ir_version = max(model.ir_version, 4)  # initializers that are no inputs
    rest = sum(v.const_value.nbytes for v in _constants(model) if v.const_value is not None)
    if rest >= LARGEST:
        raise ConvertError(
            f"{source}: {rest} bytes are left after coding, more than one ONNX file holds; use fewer bits"
        )
    model = ir.external_data.load_to_model(model)
    return ir.serde.serialize_model(model).SerializeToString(), len(found)


def check_graph(target: Path, overwrite: bool) -> None:
    """Refuses to replace anything but a file named as a graph, and that only if asked for.

    Raises:
        ConvertError: something is there and stays.
    """
    check_replaceable(target, overwrite, "an .onnx file", lambda path: path.suffix == ".onnx" and path.is_file())


def _check_made(made: Path, source: Path) -> str:
    """Opens the smaller graph; returns what found it whole (`Compressed.checked_by`).

    Graphs for other runtimes have operators that onnxruntime does not know. It opens neither them nor what is made of
    them, so their structure is checked instead.
    """
    try:
        _session(made)
        return "onnxruntime"
    except ConvertError as error:
        if not isinstance(error, MissingPackageError) and _opens(source):
            raise ConvertError(f"{source}: the smaller graph was not kept: {error}") from error
    checker = base.package("onnx.checker", "onnx")
    try:
        checker.check_model(str(made))
    except checker.ValidationError as error:
        raise ConvertError(f"{source}: is not a valid graph: {_line(error)}") from error
    return "onnx.checker"


def _opens(path: Path) -> bool:
    """Whether onnxruntime opens a graph."""
    try:
        _session(path)
    except ConvertError:
        return False
    return True


def load(path: Path) -> ir.Model:
    """A model whose external data, if any, lies beside it.

    Raises:
        ConvertError: missing, damaged, or data outside its folder.
    """
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # what it warns of is an error below, or none
    try:
        model = ir.load(path)
    except FileNotFoundError as error:
        raise ConvertError(f"{path}: no such file") from error
    except Exception as error:  # whatever protobuf and its readers throw
        raise ConvertError(f"{path}: is not an ONNX model, or damaged") from error
    for value in _constants(model):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            place = (path.parent / tensor.location).resolve()
            if not place.is_relative_to(path.parent.resolve()):
                raise ConvertError(f"{path}: tensor '{value.name}' has its data outside the model's folder")
            if not place.is_file() or place.stat().st_size < (tensor.offset or 0) + tensor.nbytes:
                raise ConvertError(f"{place}: is missing or too short for tensor '{value.name}'")
    return model


def _bytes(path: Path) -> int:
    beside = path.with_name(path.name + ".data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The graph and those within its control flow."""
    seen = {id(model.graph)}
    yield model.graph
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if isinstance(node.graph, ir.Graph) and id(node.graph) not in seen:
            seen.add(id(node.graph))
            yield node.graph


def _constants(model: ir.Model) -> Iterator[ir.Value]:
    """Initializers and outputs of Constant nodes, of all graphs."""
    for graph in list(_graphs(model)):
        yield from list(graph.initializers.values())
        for node in list(graph):
            if node.op_type == "Constant" and "value" in node.attributes:
                value = node.outputs[0]
                value.const_value = node.attributes["value"].as_tensor()
                yield value


def _weights(model: ir.Model) -> Iterator[ir.Value]:
    """Constants that are weights and large enough."""
    for value in _constants(model):
        tensor = value.const_value
        if tensor is None or tensor.size < LEAST or len(tensor.shape) < 2:
            continue
        if value.is_graph_output():  # given out as it is, so kept as it is
            continue
        if tensor.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16) and _is_weight(value):
            yield value


def _is_weight(value: ir.Value, depth: int = 8) -> bool:
    """Whether a constant reaches a weight's place, cut and turned on the way perhaps."""
    for use in value.uses():
        if use.idx in WEIGHTS.get(use.node.op_type, ()):
            return True
        moved = use.node.op_type in MOVES and (use.idx == 0 or use.node.op_type == "Concat")
        if moved and depth > 0 and any(_is_weight(o, depth - 1) for o in use.node.outputs):
            return True
    return False


@dataclass(frozen=True)
class Difference:
    """Of one output: largest difference, and root mean square difference over that of the output's own values."""

    output: str
    largest: float
    relative_rms: float


def compare(original: Path, smaller: Path, inputs: dict[str, npt.NDArray[Any]] | None = None) -> list[Difference]:
    """Runs both graphs in onnxruntime on the same inputs: those given, or random ones of the declared shapes (unknown
    sizes are 1).

    Raises:
        ConvertError: onnxruntime is missing or cannot run a graph.
    """
    given = inputs if inputs is not None else _random_inputs(original)
    names, want = _run(original, given)
    _, got = _run(smaller, given)
    out = []
    for name, a, b in zip(names, want, got, strict=True):
        if np.issubdtype(a.dtype, np.floating):
            scale = float(np.sqrt(np.square(a, dtype=np.float64).mean()))
            rms = float(np.sqrt(np.square(b - a, dtype=np.float64).mean()))
            out.append(Difference(name, float(np.abs(b - a).max(initial=0)), rms / scale if scale else 0.0))
    return out


def _session(path: Path) -> Any:
    ort = base.package("onnxruntime", "onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConvertError(f"{path}: onnxruntime cannot open it: {_line(error)}") from error


def _run(path: Path, inputs: dict[str, npt.NDArray[Any]]) -> tuple[list[str], list[npt.NDArray[Any]]]:
    session = _session(path)
    try:
        return [o.name for o in session.get_outputs()], session.run(None, inputs)
    except Exception as error:
        raise ConvertError(f"{path}: onnxruntime cannot run it: {_line(error)}") from error


def _random_inputs(path: Path) -> dict[str, npt.NDArray[Any]]:
    random = np.random.default_rng(0)
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    out: dict[str, npt.NDArray[Any]] = {}
    for given in _session(path).get_inputs():
        shape = [n if isinstance(n, int) else 1 for n in given.shape]
        if given.type not in kinds:
            raise ConvertError(f"{path}: input '{given.name}' is {given.type}; give inputs with --input FILE.npz")
        out[given.name] = random.standard_normal(shape).astype(kinds[given.type])
    return out
