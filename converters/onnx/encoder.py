"""Encoders in ONNX: texts of a batch, padded on the right, to hidden states and vectors, or scores.

Inputs and outputs have the names that sentence-transformers and Optimum give them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.converters.base import Choices
from edgekit.converters.lower import lower
from edgekit.converters.onnx.data import DataFile
from edgekit.converters.onnx.emitter import OnnxEmitter
from edgekit.converters.onnx.weights import Value
from edgekit.converters.weights import Json, Part, Weights
from edgekit.errors import ConvertError

HIDDEN = -1e9  # what is added to the score of a token that is not seen


class OnnxEncoder(OnnxEmitter):
    """The graph of an encoder."""

    def __init__(self, weights: Weights, data: DataFile, choices: Choices, context: int, *, exact: bool) -> None:
        """`exact` as for `OnnxWeights`."""
        self._biases: dict[int, Value] = {}  # by window
        super().__init__(weights, data, choices, context, exact=exact, flash=False)

    def _inputs(self) -> None:
        def tensor(name: str) -> Value:
            return ir.Value(name=name, shape=ir.Shape(("batch", "tokens")), type=ir.TensorType(ir.DataType.INT64))

        self.ids, self.mask = tensor("input_ids"), tensor("attention_mask")
        self.type_ids = tensor("token_type_ids") if "types" in self.w.model["embedding"] else None
        seen = self.op("Cast", self.mask, to=int(ir.DataType.FLOAT))
        self.seen = self.op("Unsqueeze", seen, self.ints(2))  # [batch, tokens, 1]: 1 for tokens of a text

    @property
    def inputs(self) -> list[Value]:
        """Of the graph."""
        return [self.ids, self.mask, *([self.type_ids] if self.type_ids is not None else [])]

    def _places(self) -> Value:
        tokens = self.op("Squeeze", self.op("Shape", self.ids, start=1, end=2))
        zero, one = self.const("zero", np.array(0, np.int64)), self.const("one", np.array(1, np.int64))
        return self.op("Unsqueeze", self.op("Range", zero, tokens, one), self.ints(0))

    def types(self) -> Value:
        assert self.type_ids is not None
        return self.type_ids

    def attend(self, q: Value, k: Value, v: Value, block: Json, layer: int) -> Value:
        heads, d = block["heads"], block["head_dim"]
        if block["kv_heads"] != heads or "sinks" in block:
            raise ConvertError("onnx: encoders with grouped heads or sinks are not written; run the bundle itself")
        if block.get("rope") is not None:
            dim = self.w.model["ropes"][block["rope"]]["dim"]
            q, k = (self._rotated(x, block["rope"], heads, dim) for x in (q, k))
        q, k, v = (self.op("Reshape", x, self.ints(0, 0, heads, d)) for x in (q, k, v))
        q, v = (self.op("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, v))
        scores = self.scale(self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 3, 1])), block["scale"])
        scores = self.cap(scores, block["softcap"]) if block["softcap"] else scores
        weights = self.op("Softmax", self.op("Add", scores, self._bias(block["window"])), axis=-1)
        mixed = self.op("Transpose", self.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        return self.op("Reshape", mixed, self.ints(0, 0, -1))

    def _bias(self, window: int) -> Value:
        """What is added to scores [batch, heads, tokens, tokens]: nothing where a token is seen."""
        if window not in self._biases:
            blind = self.op("Sub", self.number(1.0), self.op("Transpose", self.seen, perm=[0, 2, 1]))
            if window:
                row = self._places()  # [1, tokens]
                apart = self.op("Abs", self.op("Sub", row, self.op("Transpose", row, perm=[1, 0])))
                far = self.op("Cast", self.op("GreaterOrEqual", apart, self.ints(window)), to=int(ir.DataType.FLOAT))
                blind = self.op("Max", blind, far)
            self._biases[window] = self.scale(self.op("Unsqueeze", blind, self.ints(1)), HIDDEN)
        return self._biases[window]

    # --- vectors and scores ----------------------------------------------------------------------

    def pooled(self, states: Value) -> Value:
        """Vectors [batch, hidden] of hidden states [batch, tokens, hidden]."""
        mode = self.w.model["pooling"]["mode"]
        if mode == "cls":
            return self.op("Squeeze", self.op("Gather", states, self.ints(0), axis=1), self.ints(1))
        if mode == "mean":
            total = self.op("ReduceSum", self.op("Mul", states, self.seen), self.ints(1), keepdims=0)
            return self.op("Div", total, self.op("ReduceSum", self.seen, self.ints(1), keepdims=0))
        if mode == "max":
            blind = self.scale(self.op("Sub", self.number(1.0), self.seen), HIDDEN)
            return self.op("ReduceMax", self.op("Add", states, blind), self.ints(1), keepdims=0)
        last = self.op("Sub", self.op("ReduceSum", self.mask, self.ints(1), keepdims=1), self.ints(1))
        here = self.op("Cast", self.op("Equal", self._places(), last), to=int(ir.DataType.FLOAT))
        picked = self.op("Mul", states, self.op("Unsqueeze", here, self.ints(2)))
        return self.op("ReduceSum", picked, self.ints(1), keepdims=0)

    def scores(self, vectors: Value) -> Value:
        """Scores [batch, 1] of vectors [batch, hidden], before a sigmoid."""
        head = self.w.model["head"]
        x = self.op("Unsqueeze", vectors, self.ints(1))
        if "project" in head:
            x = self.linear(x, Part(head["project"]), head.get("project_bias"))
            if "activation" in head:
                tanh = head["activation"] == "tanh"
                x = self.op("Tanh", x) if tanh else self.activate(head["activation"], 0.0, x)
            x = self.norm(head["norm"], x) if "norm" in head else x
        return self.op("Squeeze", self.linear(x, Part(head["matrix"]), head.get("bias")), self.ints(1))


def write_encoder(e: OnnxEncoder) -> list[Value]:
    """The outputs of an encoder's graph: hidden states, and vectors or scores."""
    model = e.w.model
    states = lower(model, e, e.ids)
    vectors = e.pooled(states)
    if model["output"] == "score":
        made, name, width = e.scores(vectors), "logits", 1
    else:
        unit = model["pooling"]["normalize"]
        made = e.op("LpNormalization", vectors, axis=-1, p=2) if unit else e.op("Identity", vectors)
        name, width = "sentence_embedding", model["hidden_size"]
    for value, called, shape in (
        (states, "last_hidden_state", ("batch", "tokens", model["hidden_size"])),
        (made, name, ("batch", width)),
    ):
        value.name, value.shape, value.type = called, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return [states, made]
