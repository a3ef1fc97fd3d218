"""The gated delta rule of one token, as the body of an ONNX Scan."""

from __future__ import annotations

from itertools import count

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from edgekit.converters.weights import Json


def channels_of(block: Json) -> int:
    """What the convolution of a linear attention block mixes: queries, keys and values."""
    keys, values = block["key_heads"] * block["key_dim"], block["value_heads"] * block["value_dim"]
    return int(2 * keys + values)


def delta_rule(heads: int, key_dim: int, value_dim: int, prefix: str) -> ir.Graph:
    """The step of all heads.

    Inputs: the state [batch, heads, key_dim, value_dim], q and k [batch, heads, key_dim], v [batch, heads, value_dim],
    how much of it is written, and how much of the state stays [batch, heads]. Outputs: the new state, and what q reads
    [batch, heads, value_dim]. `prefix` makes names differ from those of the graph around it.
    """
    tape, numbers = Tape(), count()

    def given(name: str, *shape: int) -> ir.Value:
        type_ = ir.TensorType(ir.DataType.FLOAT)
        return ir.Value(name=f"{prefix}.{name}", shape=ir.Shape(("batch", heads, *shape)), type=type_)

    def named(value: ir.Value) -> ir.Value:
        value.name = f"{prefix}.{next(numbers)}"
        return value

    def op(kind: str, *inputs: ir.Value) -> ir.Value:
        return named(tape.op(kind, list(inputs)))

    def axes(*values: int) -> ir.Value:
        return named(tape.op("Constant", [], {"value": ir.tensor(np.array(values, np.int64))}))

    state = given("state", key_dim, value_dim)
    q, k, v = given("q", key_dim), given("k", key_dim), given("v", value_dim)
    written, stays = given("written"), given("stays")
    row, column = axes(2), axes(3)
    kept = op("Mul", state, op("Unsqueeze", stays, axes(2, 3)))
    recalled = op("Squeeze", op("MatMul", op("Unsqueeze", k, row), kept), row)
    change = op("Mul", op("Sub", v, recalled), op("Unsqueeze", written, row))
    outer = op("MatMul", op("Unsqueeze", k, column), op("Unsqueeze", change, row))
    new = op("Add", kept, outer)
    read = op("Squeeze", op("MatMul", op("Unsqueeze", q, row), new), row)
    for value in (new, read):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    return ir.Graph([state, q, k, v, written, stays], [new, read], nodes=tape.nodes, name=prefix)
