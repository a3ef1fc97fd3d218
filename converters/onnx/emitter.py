"""The blocks' operations in ONNX, with ONNX Runtime's own operators where they are the fast path.

Quantized weights are `com.microsoft::MatMulNBits`, attention is `com.microsoft::GroupQueryAttention`
(https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). A palette has no such
operator: in the `exact` form its indices are looked up in the graph, else it is re-quantized.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.converters.base import Choices
from edgekit.converters.lower import feed_forward, mixers
from edgekit.converters.onnx.data import DataFile
from edgekit.converters.onnx.recurrence import channels_of, delta_rule
from edgekit.converters.onnx.weights import MS, OnnxWeights, Value
from edgekit.converters.rope import tables
from edgekit.converters.weights import Json, Part, Weights

EDGEKIT = "ai.edgekit"
FAR = 1 << 30  # an end that lies behind everything
HEAD_STEP = 8  # GroupQueryAttention: heads, and pairs of rotated values, are multiples of it


class OnnxEmitter(OnnxWeights):
    """The graph of a decoder: its inputs, arithmetic and attention."""

    def __init__(
        self, weights: Weights, data: DataFile, choices: Choices, context: int, *, exact: bool, flash: bool
    ) -> None:
        """`exact` as for `OnnxWeights`; `flash`: feed-forward blocks, projections and the head are the custom
        operators of runtime/onnx."""
        super().__init__(weights, data, choices, exact=exact)
        self.context, self.flash = context, flash
        model = weights.model
        names_of = ("q", "k", "v", "gate", "beta", "decay", "gate_in", "gate_out", "value", "o")
        wanted = {b[n] for b in mixers(model["blocks"]) for n in names_of if n in b}
        head = model.get("head", {})
        wanted |= {head.get("matrix"), head.get("project"), model["embedding"].get("project")}
        names = [m["name"] for m in weights.bundle.data["matrices"]]
        self.projections = {n: i for i, n in enumerate(names) if n in wanted}  # name -> place in the manifest
        self.presents: list[Value] = []
        self.pasts: dict[int, list[Value]] = {}  # of each block that looks at other tokens
        self._ropes: dict[int, tuple[Value, Value]] = {}
        self._inputs()

    def _inputs(self) -> None:
        def tensor(name: str, kind: ir.DataType, *shape: int | str) -> Value:
            return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))

        self.ids = tensor("input_ids", ir.DataType.INT64, "batch", "tokens")
        self.mask = tensor("attention_mask", ir.DataType.INT64, "batch", "total")
        for layer, b in enumerate(mixers(self.w.model["blocks"])):
            if b["kind"] == "convolution":
                state = ("batch", b["taps"] - 1, self.w.model["hidden_size"])
                self.pasts[layer] = [tensor(f"past_conv.{layer}", ir.DataType.FLOAT, *state)]
                continue
            if b["kind"] == "linear_attention":
                state = ("batch", b["taps"] - 1, channels_of(b))
                heads = ("batch", b["value_heads"], b["key_dim"], b["value_dim"])
                self.pasts[layer] = [
                    tensor(f"past_conv.{layer}", ir.DataType.FLOAT, *state),
                    tensor(f"past_state.{layer}", ir.DataType.FLOAT, *heads),
                ]
                continue
            shape = ("batch", b["kv_heads"], "past", head_width(b["head_dim"]))
            names = (f"past_key_values.{layer}.{which}" for which in ("key", "value"))
            self.pasts[layer] = [tensor(name, ir.DataType.FLOAT, *shape) for name in names]
        total = self.op("Shape", self.mask, start=1, end=2)
        self.total = self.op("Cast", self.op("Squeeze", total), to=int(ir.DataType.INT32))
        seen = self.op("ReduceSum", self.mask, self.ints(1), keepdims=0)
        self.seqlens = self.op("Cast", self.op("Sub", seen, self.ints(1)), to=int(ir.DataType.INT32))

    @property
    def inputs(self) -> list[Value]:
        """Of the graph."""
        return [self.ids, self.mask, *(past for pair in self.pasts.values() for past in pair)]

    # --- arithmetic --------------------------------------------------------------------------

    def positions(self) -> Value:
        offset = self.w.model["embedding"].get("position_offset", 0)
        row = self._places()
        return self.op("Add", row, self.ints(offset)) if offset else row

    def _places(self) -> Value:
        """Place of each token in the text, [1, tokens]."""
        tokens = self.op("Squeeze", self.op("Shape", self.ids, start=1, end=2))
        total = self.op("Squeeze", self.op("Shape", self.mask, start=1, end=2))
        row = self.op("Range", self.op("Sub", total, tokens), total, self.const("one", np.array(1, np.int64)))
        return self.op("Unsqueeze", row, self.ints(0))

    def add(self, a: Value, b: Value) -> Value:
        return self.op("Add", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.op("Mul", a, b)

    def scale(self, x: Value, by: float) -> Value:
        return self.op("Mul", x, self.number(by))

    def cap(self, x: Value, at: float) -> Value:
        return self.scale(self.op("Tanh", self.scale(x, 1 / at)), at)

    def activate(self, kind: str, threshold: float, x: Value) -> Value:
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if kind in ("gelu", "gelu_tanh"):
            return self.op("Gelu", x, approximate="tanh" if kind == "gelu_tanh" else "none")
        if kind == "threshold":
            return self.op("Where", self.op("Greater", x, self.number(threshold)), x, self.number(0.0))
        y = self.op("Relu", self.op("Sub", x, self.number(threshold)) if kind == "shifted_relu" else x)
        return self.op("Mul", y, y) if kind == "relu2" else y

    def clamp(self, x: Value, least: float | None, most: float) -> Value:
        return self.op("Clip", x, None if least is None else self.number(least), self.number(most))

    def sigmoid(self, x: Value) -> Value:
        return self.op("Sigmoid", x)

    def norm(self, norm: Json, x: Value, heads: int = 0) -> Value:
        weight = norm.get("weight")
        scale = self._vector(weight) if weight else self._ones()
        y = self.op("Reshape", x, self.ints(0, 0, heads, -1)) if heads else x
        if norm["kind"] == "rms":
            y = self.op("RMSNormalization", y, scale, axis=-1, epsilon=norm["eps"])
            y = self.op("Add", y, self._vector(norm["bias"])) if norm.get("bias") else y
        else:
            bias = [self._vector(norm["bias"])] if norm.get("bias") else []
            y = self.op("LayerNormalization", y, scale, *bias, axis=-1, epsilon=norm["eps"])
        return self.op("Reshape", y, self.ints(0, 0, -1)) if heads else y

    def _ones(self) -> Value:
        width = self.w.model["hidden_size"]
        return self.const(f"ones_{width}", np.ones(width, np.float32))

    def linear(self, x: Value, weight: Part, bias: str | None = None) -> Value:
        if not self.flash or weight.matrix not in self.projections:
            return super().linear(x, weight, bias)
        rows, _ = self.w.shape(weight)
        y = self.op("FlashLinear", x, domain=EDGEKIT, matrix=self.projections[weight.matrix], rows=rows)
        return y if bias is None else self.op("Add", y, self._vector(bias))

    def feed_forward(self, block: Json, index: int, x: Value) -> Value:
        if not self.flash:
            return feed_forward(self, block, x)
        return self.op("FlashFFN", x, domain=EDGEKIT, block=index)

    # --- attention and experts ---------------------------------------------------------------

    def _rope(self, index: int) -> tuple[Value, Value]:
        if index not in self._ropes:
            cos, sin = tables(self.w, index, self.context)
            self._ropes[index] = (self.const(f"rope.{index}.cos", cos), self.const(f"rope.{index}.sin", sin))
        return self._ropes[index]

    def _rotated(self, x: Value, rope: int, heads: int, dim: int) -> Value:
        """x [1, tokens, heads * head_dim] rotated in plain operators, for sizes GroupQueryAttention refuses."""
        cos, sin = (self.op("Unsqueeze", self.op("Gather", t, self._places()), self.ints(2)) for t in self._rope(rope))
        x = self.op("Reshape", x, self.ints(0, 0, heads, -1))

        def cut(begin: int, end: int) -> Value:
            return self.op("Slice", x, self.ints(begin), self.ints(end), self.ints(3))

        a, b = cut(0, dim // 2), cut(dim // 2, dim)
        first = self.op("Sub", self.op("Mul", a, cos), self.op("Mul", b, sin))
        second = self.op("Add", self.op("Mul", b, cos), self.op("Mul", a, sin))
        return self.op("Reshape", self.op("Concat", first, second, cut(dim, FAR), axis=3), self.ints(0, 0, -1))

    def _padded(self, x: Value, heads: int, head_dim: int) -> Value:
        """Heads filled up with zeros to a size that GroupQueryAttention takes; scores stay the same."""
        x = self.op("Reshape", x, self.ints(0, 0, heads, head_dim))
        x = self.op("Pad", x, self.ints(0, 0, 0, 0, 0, 0, 0, head_width(head_dim) - head_dim))
        return self.op("Reshape", x, self.ints(0, 0, -1))

    def attend(self, q: Value, k: Value, v: Value, block: Json, layer: int) -> Value:
        heads, kv, d = block["heads"], block["kv_heads"], block["head_dim"]
        rotary: list[Value] = []
        if block.get("rope") is not None:
            dim = self.w.model["ropes"][block["rope"]]["dim"]
            if d % HEAD_STEP == 0 and dim % (2 * HEAD_STEP) == 0:
                rotary = list(self._rope(block["rope"]))
            else:
                q, k = (self._rotated(x, block["rope"], n, dim) for x, n in ((q, heads), (k, kv)))
        if d % HEAD_STEP:
            q, k, v = (self._padded(x, n, d) for x, n in ((q, heads), (k, kv), (v, kv)))
        given: list[Value | None] = [q, k, v, *self.pasts[layer], self.seqlens, self.total, *rotary]
        if "sinks" in block:  # behind the tables of a rotation, positions and a bias of scores
            given += [None] * (11 - len(given)) + [self._vector(block["sinks"])]
        out, key, value = self.ops(
            "GroupQueryAttention",
            given,
            3,
            MS,
            num_heads=heads,
            kv_num_heads=kv,
            scale=float(block["scale"]),
            local_window_size=block["window"] or -1,
            softcap=float(block["softcap"]),
            do_rotary=1 if rotary else 0,
        )
        for present, which in ((key, "key"), (value, "value")):
            present.name = f"present.{layer}.{which}"
            present.shape = ir.Shape(("batch", kv, "total", head_width(d)))
            present.type = ir.TensorType(ir.DataType.FLOAT)
        self.presents += [key, value]
        if d % HEAD_STEP:
            out = self.op("Reshape", out, self.ints(0, 0, heads, -1))
            out = self.op("Slice", out, self.ints(0), self.ints(d), self.ints(3))
            out = self.op("Reshape", out, self.ints(0, 0, -1))
        return out

    def convolve(self, x: Value, block: Json, layer: int) -> Value:
        mixed = self._convolved(x, block, layer, self.w.model["hidden_size"])
        bias = block.get("kernel_bias")
        return mixed if bias is None else self.op("Add", mixed, self._vector(bias))

    def _convolved(self, x: Value, block: Json, layer: int, width: int) -> Value:
        taps = block["taps"]
        kernel = self.w.vector(block["kernel"]).reshape(width, taps)
        joined = self.op("Concat", self.pasts[layer][0], x, axis=1)
        mixed: Value | None = None
        for tap in range(taps):
            end = tap + 1 - taps or FAR
            part = self.op("Slice", joined, self.ints(tap), self.ints(end), self.ints(1))
            name = f"{block['kernel']}.{tap}"
            part = self.op("Mul", part, self.const(name, np.ascontiguousarray(kernel[:, tap])))
            mixed = part if mixed is None else self.op("Add", mixed, part)
        assert mixed is not None
        last = self.op("Slice", joined, self.ints(1 - taps or FAR), self.ints(FAR), self.ints(1))
        last.name = f"present_conv.{layer}"
        last.shape = ir.Shape(("batch", taps - 1, width))
        last.type = ir.TensorType(ir.DataType.FLOAT)
        self.presents.append(last)
        return mixed

    def recur(self, q: Value, k: Value, v: Value, beta: Value, decay: Value, block: Json, layer: int) -> Value:
        heads, keys, d = block["value_heads"], block["key_heads"], block["key_dim"]
        x = self._convolved(self.op("Concat", q, k, v, axis=2), block, layer, channels_of(block))
        x = self.activate(block["activation"], 0, x)

        def cut(begin: int, end: int, count: int) -> Value:
            part = self.op("Slice", x, self.ints(begin), self.ints(end), self.ints(2))
            return self.op("Reshape", part, self.ints(0, 0, count, -1))

        def unit(part: Value, scale: float) -> Value:
            square = self.op("ReduceSum", self.op("Mul", part, part), self.ints(-1), keepdims=1)
            length = self.op("Sqrt", self.op("Add", square, self.number(1e-6)))
            part = self.scale(self.op("Div", part, length), scale)
            if keys == heads:
                return part
            wide = self.op("Expand", self.op("Unsqueeze", part, self.ints(3)), self.ints(1, 1, 1, heads // keys, 1))
            return self.op("Reshape", wide, self.ints(0, 0, heads, -1))

        width = keys * d
        queries, found = unit(cut(0, width, keys), d**-0.5), unit(cut(width, 2 * width, keys), 1.0)
        rate = self.op("Exp", self._vector(block["decay_log"]))
        stays = self.op("Exp", self.op("Neg", self.op("Mul", self.op("Softplus", decay), rate)))
        given = [queries, found, cut(2 * width, FAR, heads), self.op("Sigmoid", beta), stays]
        body = delta_rule(heads, d, block["value_dim"], f"delta_rule.{layer}")
        axes = [1] * len(given)
        state, out = self.ops(
            "Scan", [self.pasts[layer][1], *given], 2, "", body=body, num_scan_inputs=len(given),
            scan_input_axes=axes, scan_output_axes=[1],
        )  # fmt: skip
        state.name = f"present_state.{layer}"
        state.shape = ir.Shape(("batch", heads, d, block["value_dim"]))
        state.type = ir.TensorType(ir.DataType.FLOAT)
        self.presents.append(state)
        return self.op("Reshape", out, self.ints(0, 0, -1))

    def route(self, logits: Value, block: Json) -> Value:
        p = self.op("Sigmoid", logits) if block.get("scoring") == "sigmoid" else self.op("Softmax", logits, axis=-1)
        bias = block.get("choice_bias")
        ranked = p if bias is None else self.op("Add", p, self._vector(bias))
        best, which = self.ops("TopK", [ranked, self.ints(block["top_k"])], 2, "", axis=-1, largest=1, sorted=1)
        best = best if bias is None else self.op("GatherElements", p, which, axis=-1)
        if block["normalize"]:
            total = self.op("ReduceSum", best, self.ints(-1), keepdims=1)
            eps = block.get("normalize_eps", 0.0)
            best = self.op("Div", best, self.op("Add", total, self.number(eps)) if eps else total)
        best = self.scale(best, block["routed_scale"]) if "routed_scale" in block else best
        return self.op("ScatterElements", self.scale(p, 0.0), which, best, axis=-1)

    def column(self, x: Value, index: int) -> Value:
        return self.op("Slice", x, self.ints(index), self.ints(index + 1), self.ints(2))


def head_width(head_dim: int) -> int:
    """Values of a head in the cache."""
    return -(-head_dim // HEAD_STEP) * HEAD_STEP
