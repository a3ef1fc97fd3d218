"""A torch.nn.Module as a Core ML package or an ONNX graph with palettized or quantized weights: the Python API for
models that are not language models.

    from edgekit.converters.graphs.modules import export_module
    export_module(module, torch.zeros(1, 3, 32, 32), "resnet.mlpackage", Scheme("palette", 6))
"""

from __future__ import annotations

import math
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.workspace import check_replaceable, is_empty, output_path, workspace
from edgekit.codecs.palette import Palette
from edgekit.converters import base
from edgekit.converters.graphs import convert as graphs
from edgekit.converters.graphs.coder import LEAST_CHANNELS, Scheme, table_rows
from edgekit.converters.graphs.convert import LEAST, Compressed, check_graph
from edgekit.converters.weights import Loss
from edgekit.errors import ConvertError
from edgekit.solvers import encode

INPUT, OUTPUT = "x", "y"
WEIGHTED = ("conv", "conv_transpose", "linear")


def export_module(
    module: Any, example: Any, out: str | Path, scheme: Scheme | None = None, *, overwrite: bool = False
) -> Compressed:
    """Exports a module of one input and one output.

    Args:
        module: in evaluation mode; needs torch.
        example: an input; its shape becomes the artifact's.
        out: ".mlpackage" or ".onnx".
        scheme: of weights; palettes of 8 bits if not given. Core ML takes palettes.
        overwrite: replace what is there.

    Raises:
        ConvertError: another suffix, the output exists, a package is missing, or the format cannot express the module.
    """
    path, chosen = Path(out), scheme or Scheme("palette", 8)
    if path.suffix not in (".mlpackage", ".onnx"):
        raise ConvertError(f"{path}: a module is exported to .mlpackage or .onnx")
    check = check_graph if path.suffix == ".onnx" else _check_package
    check(output_path(path), overwrite)  # says what is wrong before the work
    return (_onnx if path.suffix == ".onnx" else _package)(module, example, path, chosen)


def _check_package(target: Path, overwrite: bool) -> None:
    """Refuses to replace anything but a Core ML package or an empty folder, and that only if asked for."""
    kind = "a Core ML package (it has no Manifest.json)"
    check_replaceable(target, overwrite, kind, lambda path: (path / "Manifest.json").is_file() or is_empty(path))


def _onnx(module: Any, example: Any, path: Path, scheme: Scheme) -> Compressed:
    torch = base.package("torch", "train")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = Path(folder) / "whole.onnx"
        try:
            torch.onnx.export(
                module, (example,), str(whole), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
            )
        except Exception as error:  # torch has no common base for what it cannot export
            raise ConvertError(f"{path}: torch cannot export the module: {_line(error)}") from error
        return graphs.compress(whole, path, scheme, overwrite=True)


def _package(module: Any, example: Any, path: Path, scheme: Scheme) -> Compressed:
    if scheme.method != "palette":
        raise ConvertError("Core ML packages of modules take palettes; choose Scheme('palette', bits)")
    coreml = base.load("coreml")
    torch, ct = base.package("torch", "train"), base.package("coremltools", "coreml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            traced = torch.jit.trace(module, example)
            made = ct.convert(
                traced,
                inputs=[ct.TensorType(name=INPUT, shape=tuple(example.shape))],
                outputs=[ct.TensorType(name=OUTPUT)],
                minimum_deployment_target=coreml.TARGET,
                skip_model_load=True,
            )
        except Exception as error:
            raise ConvertError(f"{path}: coremltools cannot convert the module: {_line(error)}") from error
    program, loss = made._mil_program, Loss()
    before = sum(p.numel() for p in module.parameters()) * 4
    program.functions["main"]._essential_scope_sources = []  # new operations come from nowhere in the module
    tensors = _palettize(program.functions["main"], scheme, loss)
    if tensors == 0:
        raise ConvertError(f"{path}: the module has no weights of {LEAST} values or more in {', '.join(WEIGHTED)}")
    with workspace(output_path(path), resumes=False) as space:
        coreml.save(program, space.output)
        space.place()
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return Compressed(path, tensors, loss.weights, before, size, loss.relative_rms, "coremltools")


def _palettize(block: Any, scheme: Scheme, loss: Loss) -> int:
    """Replaces weights of a MIL function by palettes; returns how many."""
    builder = base.package("coremltools.converters.mil", "coreml").Builder
    types = base.package("coremltools.converters.mil.mil", "coreml").types
    kind, count = types.string_to_nptype(f"uint{scheme.bits}"), 0
    for op in list(block.operations):
        weight = op.inputs.get("weight") if op.op_type in WEIGHTED else None
        if weight is None or weight.op is None or weight.op.op_type != "const" or weight.val.size < LEAST:
            continue
        values = weight.val.astype(np.float32)
        rows = values.reshape(len(values), -1)
        group = table_rows(scheme, rows.shape[1])
        step = math.gcd(len(rows), group) if group < len(rows) else len(rows)
        if step < LEAST_CHANNELS:
            step = len(rows)  # tables would outweigh their codes
        codec = Palette(scheme.bits, step)
        encoded = encode(codec, rows)
        assert encoded.lut is not None
        codes = encoded.arrays["codes"]
        loss.add(rows, codec.values(encoded.arrays, rows.shape[1]).dense())
        lut = encoded.lut.reshape(-1, *[1] * (values.ndim - 1), 1 << scheme.bits, 1).astype(weight.val.dtype)
        with block:
            decoded = builder.constexpr_lut_to_dense(
                indices=codes.reshape(values.shape).astype(kind), lut=lut, before_op=op, name=f"{weight.name}_palette"
            )
        block.replace_uses_of_var_after_op(anchor_op=decoded.op, old_var=weight, new_var=decoded, force_replace=True)
        if not weight.child_ops:
            block.remove_ops([weight.op])
        count += 1
    return count


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
