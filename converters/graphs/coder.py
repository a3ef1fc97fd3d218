"""Weights of one ONNX graph as codes, and the nodes that decode them.

All codes of a graph lie in one constant per plane of bits and are unpacked together, so that small tensors do not cost
more in nodes than they save. Only operators that every opset since 7 has are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekit.codecs.base import F32, U8
from edgekit.codecs.palette import Palette
from edgekit.codecs.planes import PLANES
from edgekit.converters.weights import Loss
from edgekit.errors import ConvertError
from edgekit.solvers import encode
from edgekit.solvers.nearest import symmetric_scales

Array = npt.NDArray[Any]
TURNED = ("Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")
LEAST_CHANNELS = 8
TABLE_SHARE = 8  # a table is at most an eighth of its codes' bytes
GROUPS = (64, 8)  # largest and smallest group of an affine scale


@dataclass(frozen=True)
class Scheme:
    """How weights are stored: "palette" of 1, 2, 3, 4, 6, 8 bits, `group_size` output channels to a table (more where
    these have few weights); or "affine" of 4 or 8 bits with scales for up to 64 weights of a channel."""

    method: str = "palette"
    bits: int = 4
    group_size: int = 32

    def __post_init__(self) -> None:
        widths = {"palette": (1, 2, 3, 4, 6, 8), "affine": (4, 8)}
        if self.bits not in widths.get(self.method, ()):
            raise ConvertError(
                f"graphs take palette (1, 2, 3, 4, 6, 8 bits) or affine (4, 8), not {self.method} {self.bits}"
            )


def table_rows(scheme: Scheme, cols: int) -> int:
    """Output channels of `cols` weights that share a table: those asked for, or as many as are worth one."""
    worth = TABLE_SHARE * 2 * (1 << scheme.bits) / (cols * scheme.bits / 8)
    return max(scheme.group_size, int(np.ceil(worth)))


def owner(value: ir.Value) -> ir.Graph:
    """The graph that holds a constant."""
    node = value.producer()
    graph = value.graph if node is None else node.graph
    assert isinstance(graph, ir.Graph)
    return graph


@dataclass(frozen=True)
class _Tensor:
    """One constant: its values as rows of output channels, and how those were made."""

    value: ir.Value
    rows: F32
    shape: tuple[int, ...]
    turned: bool

    @staticmethod
    def of(value: ir.Value) -> _Tensor:
        assert value.const_value is not None
        values = value.const_value.numpy().astype(np.float32)
        users = {u.node.op_type for u in value.uses()}
        turned = values.ndim == 2 and bool(users & set(TURNED))
        channels = values.shape[:-1] if users & set(RECURRENT) else values.shape[:1]  # [directions, gates, inputs]
        rows = np.ascontiguousarray(values.T) if turned else values.reshape(int(np.prod(channels)), -1)
        return _Tensor(value, rows, values.shape, turned)


class GraphCoder:
    """Replaces the constants of one graph by codes, unpacked together, and by the nodes that decode each."""

    def __init__(self, values: list[ir.Value], scheme: Scheme, loss: Loss, opset: int, prefix: str) -> None:
        self.tensors = [_Tensor.of(v) for v in values]
        self.graph = owner(values[0])
        self.scheme, self.loss, self.opset, self.prefix = scheme, loss, opset, prefix
        self.nodes: list[ir.Node] = []
        self.made: dict[str, ir.Value] = {}

    def replace(self) -> None:
        """Codes the constants, and lets all that use them use the decoded ones."""
        encode = self._palette if self.scheme.method == "palette" else self._affine
        encoded = [encode(t.rows) for t in self.tensors]
        codes = self._split(self._unpacked(np.concatenate([e[0].reshape(-1) for e in encoded])))
        decoded = []
        for i, (tensor, (_, tables, after)) in enumerate(zip(self.tensors, encoded, strict=True)):
            self.loss.add(tensor.rows, after)
            decoded.append(self._decoded(f"{self.prefix}t{i}", tensor, codes[i], *tables))
        for value in self.made.values():
            self.graph.register_initializer(value)
        self.graph.insert_before(self.graph[0], self.nodes)
        for tensor, value in zip(self.tensors, decoded, strict=True):
            self._drop(tensor.value, value)

    def _drop(self, old: ir.Value, new: ir.Value) -> None:
        node = old.producer()
        ir.convenience.replace_all_uses_with(old, new)
        if node is not None:
            self.graph.remove(node, safe=True)
            return
        if old in self.graph.inputs:  # IR version 3 lists initializers there too
            self.graph.inputs.remove(old)
        self.graph.initializers.pop(str(old.name))

    # --- nodes -------------------------------------------------------------------------------

    def _constant(self, name: str, values: Array) -> ir.Value:
        if name not in self.made:
            made = ir.Value(name=name, const_value=ir.tensor(values, name=name))
            made.shape, made.dtype = ir.Shape(values.shape), ir.DataType.from_numpy(values.dtype)
            self.made[name] = made
        return self.made[name]

    def _number(self, value: float) -> ir.Value:
        return self._constant(f"{self.prefix}f{value!r}", np.array(value, np.float32))

    def _shape(self, *sizes: int) -> ir.Value:
        return self._constant(f"{self.prefix}s" + "x".join(map(str, sizes)), np.array(sizes, np.int64))

    def _op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return self._ops(kind, inputs, 1, **attributes)[0]

    def _ops(self, kind: str, inputs: Sequence[ir.Value], count: int, **attributes: Any) -> list[ir.Value]:
        node = ir.node(kind, list(inputs), attributes, num_outputs=count)
        for i, output in enumerate(node.outputs):
            output.name = f"{self.prefix}n{len(self.nodes)}.{i}"
        self.nodes.append(node)
        return list(node.outputs)

    def _float(self, x: ir.Value) -> ir.Value:
        return self._op("Cast", x, to=int(ir.DataType.FLOAT))

    # --- codes -------------------------------------------------------------------------------

    def _unpacked(self, codes: U8) -> ir.Value:
        """Codes [n] as f32 [n]: planes of 4, 2 and 1 bits, several to a byte."""
        total: ir.Value | None = None
        shift = 0
        for plane in PLANES[self.scheme.bits]:
            value = self._plane((codes >> np.uint8(shift)) & np.uint8((1 << plane) - 1), plane)
            weighted = self._op("Mul", value, self._number(1 << shift)) if shift else value
            total = weighted if total is None else self._op("Add", total, weighted)
            shift += plane
        assert total is not None
        return total

    def _plane(self, codes: U8, bits: int) -> ir.Value:
        """A plane as f32 [n], or a little longer. A byte holds one of every `8 / bits`-th part, the first lowest."""
        per = 8 // bits
        lanes = np.pad(codes, (0, -len(codes) % per)).reshape(per, -1)
        packed = np.zeros(lanes.shape[1], np.uint8)
        for i in range(per):
            packed |= lanes[i] << np.uint8(i * bits)
        rest = self._float(self._constant(f"{self.prefix}codes{bits}", packed))
        parts: list[ir.Value] = []
        for i in range(per - 1, 0, -1):  # from the highest bits down
            unit = float(1 << (i * bits))
            part = self._op("Floor", self._op("Mul", rest, self._number(1 / unit)))
            rest = self._op("Sub", rest, self._op("Mul", part, self._number(unit)))
            parts.insert(0, part)
        whole = self._op("Concat", rest, *parts, axis=0) if parts else rest
        return whole if len(codes) % per == 0 else self._pieces(whole, [len(codes), -len(codes) % per])[0]

    def _split(self, codes: ir.Value) -> list[ir.Value]:
        """The codes of each tensor."""
        return self._pieces(codes, [t.rows.size for t in self.tensors])

    def _pieces(self, x: ir.Value, sizes: list[int]) -> list[ir.Value]:
        if len(sizes) == 1:
            return [x]
        if self.opset < 13:
            return self._ops("Split", [x], len(sizes), axis=0, split=sizes)
        return self._ops("Split", [x, self._shape(*sizes)], len(sizes), axis=0)

    def _decoded(self, name: str, tensor: _Tensor, codes: ir.Value, *tables: Array) -> ir.Value:
        """The constant again, from its codes f32 [n]."""
        count, cols = tensor.rows.shape
        if self.scheme.method == "palette":
            lut, base = tables
            if len(base):
                codes = self._op("Reshape", codes, self._shape(count, cols))
                codes = self._op("Add", codes, self._constant(f"{name}.base", base))
            index = self._op("Cast", codes, to=int(ir.DataType.INT32))
            value = self._op("Gather", self._float(self._constant(f"{name}.lut", lut)), index)
        else:
            (scale,) = tables
            value = self._op("Reshape", codes, self._shape(*scale.shape[:2], tensor.rows.size // scale.size))
            value = self._op("Sub", value, self._number(float(1 << (self.scheme.bits - 1))))
            value = self._op("Mul", value, self._float(self._constant(f"{name}.scale", scale)))
        if tensor.turned:
            value = self._op("Reshape", value, self._shape(count, cols))
            value = self._op("Transpose", value, perm=[1, 0])
        else:
            value = self._op("Reshape", value, self._shape(*tensor.shape))
        half = tensor.value.const_value is not None and tensor.value.const_value.dtype == ir.DataType.FLOAT16
        return self._op("Cast", value, to=int(ir.DataType.FLOAT16)) if half else value

    def _palette(self, rows: F32) -> tuple[U8, tuple[Array, ...], F32]:
        """Codes, (tables f16 [tables * entries], first entry of each row's table f32 [rows, 1]), decoded weights."""
        bits = self.scheme.bits
        group = table_rows(self.scheme, rows.shape[1]) if self.scheme.group_size else len(rows)
        codec = Palette(bits, group)
        encoded = encode(codec, rows)
        assert encoded.lut is not None
        base = (np.arange(len(rows)) // group << bits).astype(np.float32)[:, None]
        tables = (encoded.lut.reshape(-1), base if len(encoded.lut) > 1 else base[:0])
        return encoded.arrays["codes"], tables, codec.values(encoded.arrays, rows.shape[1]).dense()

    def _affine(self, rows: F32) -> tuple[U8, tuple[Array, ...], F32]:
        """Codes, (scales f16 [rows, groups, 1],), decoded weights."""
        bits, (count, cols) = self.scheme.bits, rows.shape
        most, least = GROUPS
        group = next((g for g in range(min(most, cols), least - 1, -1) if cols % g == 0), cols)
        grouped = rows.reshape(count, -1, group)
        half = symmetric_scales(grouped, bits)[..., None]
        scale, middle = half.astype(np.float32), 1 << (bits - 1)
        steps = np.divide(grouped, scale, out=np.zeros_like(grouped), where=scale != 0)
        codes = np.clip(np.rint(steps) + middle, 0, (1 << bits) - 1).astype(np.uint8)
        return codes, (half,), ((codes.astype(np.float32) - middle) * scale).reshape(rows.shape)
