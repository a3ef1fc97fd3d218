"""A plain NumPy forward pass over a bundle's manifest, in double precision: the oracle of tests.

It reads the same block list as the runtime and shares no code with it. No cache, no batches: every
call computes a whole text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle.weights import BundleWeights

F64 = npt.NDArray[np.float64]
Json = dict[str, Any]


def _activate(name: str, threshold: float, x: F64) -> F64:
    if name == "silu":
        out: F64 = x / (1 + np.exp(-x))
    elif name == "gelu":
        out = np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))), otypes=[np.float64])(x)
    elif name == "gelu_tanh":
        out = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    elif name == "quick_gelu":
        out = x / (1 + np.exp(-1.702 * x))
    elif name == "relu2":
        out = np.maximum(x, 0) ** 2
    elif name == "shifted_relu":
        out = np.maximum(x - threshold, 0)
    else:
        out = np.where(x > (threshold if name == "threshold" else 0), x, 0)
    return out


def _softmax(x: F64) -> F64:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    out: F64 = e / e.sum(axis=-1, keepdims=True)
    return out


class Reference:
    """The model of a bundle, decoded to doubles."""

    def __init__(self, path: str | Path, sinks: int = 0, window: int = 0) -> None:
        """Opens a bundle. `sinks`, `window`: what the KV policy "sinks" keeps; a window of 0 stands for "full"."""
        self._sinks, self._window = sinks, window
        self.weights = BundleWeights(Path(path))
        self.model: Json = self.weights.data["model"]
        self._cache: dict[str, list[F64]] = {}

    def logits(
        self,
        tokens: Sequence[int],
        length: int | None = None,
        given: Mapping[int, F64] | None = None,
        both_ways: bool = False,
    ) -> F64:
        """Logits [len(tokens), vocab]; arguments as of `states`."""
        x, head = self.states(tokens, length, (), given, both_ways), self.model["head"]
        if "project" in head:
            x = x @ self._matrix(head["project"])[0].T
        y: F64 = (x @ self._matrix(head["matrix"])[0].T + self._vector(head.get("bias"))) * head.get("scale", 1.0)
        return head["softcap"] * np.tanh(y / head["softcap"]) if head["softcap"] else y

    def vector(self, tokens: Sequence[int], types: Sequence[int] = ()) -> F64:
        """The vector [hidden_size] of a text."""
        x, pooling = self.states(tokens, types=types), self.model["pooling"]
        picked: dict[str, F64] = {"cls": x[0], "mean": x.mean(axis=0), "max": x.max(axis=0), "last": x[-1]}
        v = picked[pooling["mode"]]
        return v / np.linalg.norm(v) if pooling["normalize"] else v

    def score(self, tokens: Sequence[int], types: Sequence[int] = ()) -> float:
        """What a reranker's head gives for a text, before a sigmoid."""
        x, head = self.vector(tokens, types), self.model["head"]
        if "project" in head:
            x = x @ self._matrix(head["project"])[0].T + self._vector(head.get("project_bias"))
            name = head.get("activation")
            x = np.tanh(x) if name == "tanh" else x if name is None else _activate(name, 0.0, x)
            x = self._norm(head.get("norm"), x)
        return float((x @ self._matrix(head["matrix"])[0].T + self._vector(head.get("bias")))[0])

    def picture(self, patches: F64, positions: Sequence[int]) -> F64:
        """What a decoder reads of a picture [rows, columns], by an encoder of pictures: patches [count, values]."""
        e, merge, head = (self.model[key] for key in ("embedding", "merge", "head"))
        x = patches @ self._matrix(e["project"])[0].T + self._vector(e.get("bias"))
        if "position" in e:
            x = x + self._matrix(e["position"])[0][np.asarray(positions)]
        x = self._blocks(self._norm(e.get("norm"), x), None, None)
        squares = x.reshape(len(x) // merge["patches"], merge["patches"], -1)
        y = squares.mean(axis=1) if merge["mean"] else squares.reshape(len(squares), -1)
        y = self._norm(merge.get("norm"), y)
        if "project" in head:
            y = y @ self._matrix(head["project"])[0].T + self._vector(head.get("project_bias"))
            name = head.get("activation")
            y = np.tanh(y) if name == "tanh" else y if name is None else _activate(name, 0.0, y)
        out: F64 = y @ self._matrix(head["matrix"])[0].T + self._vector(head.get("bias"))
        return out

    def states(
        self,
        tokens: Sequence[int],
        length: int | None = None,
        types: Sequence[int] = (),
        given: Mapping[int, F64] | None = None,
        both_ways: bool = False,
    ) -> F64:
        """Hidden states [len(tokens), hidden_size] behind the last norm.

        Args:
            tokens: of the text.
            length: what scaled ropes take for its length.
            types: of the tokens, all 0 if empty.
            given: rows [count, hidden_size] that stand for the embeddings of tokens, by the first one's position.
            both_ways: whether the rows of one such piece see each other.
        """
        m, n = self.model, len(tokens)
        e = m["embedding"]
        x = self._matrix(e["matrix"])[0][np.asarray(tokens)] * np.float32(e["scale"])
        if "project" in e:
            x = x @ self._matrix(e["project"])[0].T
        pieces = np.full(n, -1)  # of each token, the piece that was given
        for begin, rows in (given or {}).items():
            x[begin : begin + len(rows)] = rows
            pieces[begin : begin + len(rows)] = begin if both_ways else -1
        if "position" in e:
            x = x + self._matrix(e["position"])[0][np.arange(n) + e["position_offset"]]
        if "types" in e:
            x = x + self._matrix(e["types"])[0][np.asarray(types or [0] * n)]
        x = self._norm(e.get("norm"), x)
        inputs = self._layer_inputs(e["layers"], tokens, x) if "layers" in e else None
        return self._blocks(x, inputs, length, pieces)

    def _blocks(self, x: F64, inputs: F64 | None, length: int | None, pieces: npt.NDArray[Any] | None = None) -> F64:
        m, n = self.model, len(x)
        pieces = np.full(n, -1) if pieces is None else pieces
        together = (pieces[:, None] == pieces[None, :]) & (pieces[:, None] >= 0)
        cached: dict[int, tuple[F64, F64]] = {}  # keys and values of attention blocks
        before = x  # what the preceding block read
        for number, block in enumerate(m["blocks"]):
            before = before if block.get("parallel") else x
            source = self._norm(block.get("pre_norm"), before)
            if block.get("pre_relu"):
                source = np.maximum(source, 0)
            if block["kind"] == "attention":
                out = self._attention(block, source, length or n, cached, number, together)
            elif block["kind"] == "layer_input":
                assert inputs is not None
                gate = _activate(block["activation"], 0.0, self._linear(block, "gate", source))
                out = self._linear(block, "o", gate * inputs[:, block["index"]])
            elif block["kind"] == "convolution":
                out = self._convolution(block, source)
            elif block["kind"] == "linear_attention":
                out = self._linear_attention(block, source)
            else:
                out = self._ffn(block, source)
            out = self._norm(block.get("post_norm"), out) * block.get("residual_scale", 1.0)
            x = self._norm(block.get("out_norm"), x + out)
            x = x * self._vector(block["out_scale"]) if "out_scale" in block else x
        return self._norm(m.get("final_norm"), x)

    def _matrix(self, name: str) -> list[F64]:
        if name not in self._cache:
            self._cache[name] = [p.astype(np.float64) for p in self.weights.matrix(name)]
        return self._cache[name]

    def _vector(self, name: str | None) -> F64 | float:
        return 0.0 if name is None else self.weights.vector(name).astype(np.float64)

    def _norm(self, norm: Json | None, x: F64) -> F64:
        if norm is None:
            return x
        if norm["kind"] == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + norm["eps"])
        weight = self._vector(norm["weight"]) if "weight" in norm else 1.0
        out: F64 = x / scale * weight + self._vector(norm.get("bias"))
        return out

    def _rope(self, index: int | None, x: F64, length: int) -> F64:  # x [n, heads, d]
        if index is None:
            return x
        rope = self.model["ropes"][index]
        beyond = 0 < rope.get("switch_length", 0) < length
        name = rope["long_inv_freq"] if beyond and "long_inv_freq" in rope else rope["inv_freq"]
        inv = self.weights.vector(name).astype(np.float64)
        dim = rope["dim"]
        if beyond and rope["kind"] == "dynamic":
            grown = rope["factor"] * length / rope["switch_length"] - (rope["factor"] - 1)
            base = rope["base"] * grown ** (dim / (dim - 2))
            inv = base ** -(np.arange(0, dim, 2) / dim)
        angle = np.arange(len(x))[:, None] * inv
        cos, sin = (f(angle)[:, None, :] * rope["scale"] for f in (np.cos, np.sin))
        a, b = x[..., : dim // 2], x[..., dim // 2 : dim]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., dim:]], axis=-1)

    def _layer_inputs(self, e: Json, tokens: Sequence[int], x: F64) -> F64:  # [n, layers, dim]
        shape = (len(x), e["count"], e["dim"])
        projected = (x @ self._matrix(e["project"])[0].T * e["project_scale"]).reshape(shape)
        own = self._matrix(e["table"])[0][np.asarray(tokens)].reshape(shape) * e["scale"]
        out: F64 = (self._norm(e["norm"], projected) + own) * e["mix"]
        return out

    def _attention(
        self,
        b: Json,
        x: F64,
        length: int,
        cached: dict[int, tuple[F64, F64]],
        number: int,
        together: npt.NDArray[Any],
    ) -> F64:
        n, d = len(x), b["head_dim"]

        def project(which: str, heads: int) -> F64:
            y = x @ self._matrix(b[which])[0].T + self._vector(b.get(f"{which}_bias"))
            norm = b.get(f"{which}_norm")
            if norm is not None and not norm["per_head"]:
                y = self._norm(norm, y)
            y = y.reshape(n, heads, d)
            return self._norm(norm, y) if norm is not None and norm["per_head"] else y

        q = self._rope(b.get("rope"), project("q", b["heads"]), length)
        if "source" in b:
            k, v = cached[b["source"]]
        else:
            k = self._rope(b.get("rope"), project("k", b["kv_heads"]), length)
            v = project("v", b["kv_heads"])
        cached[number] = k, v
        group = b["heads"] // b["kv_heads"]
        k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) * b["scale"]
        if b["softcap"]:
            scores = b["softcap"] * np.tanh(scores / b["softcap"])
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        distance = distance if b.get("causal", True) else np.abs(distance)
        hidden = ((distance < 0) & ~together) | ((distance >= b["window"]) if b["window"] else False)
        if self._window and not b["window"]:
            hidden |= (distance >= self._window) & (np.arange(n)[None, :] >= self._sinks)
        scores = np.where(hidden, -np.inf, scores)
        if "sinks" in b:  # a position that takes weight and gives nothing
            sinks = np.broadcast_to(self._vector(b["sinks"]), (1, n, b["heads"])).transpose(2, 1, 0)
            scores = np.concatenate([scores, sinks], axis=-1)
        mixed = np.einsum("hqk,khd->qhd", _softmax(scores)[..., :n], v).reshape(n, -1)
        if "gate" in b:
            mixed = mixed / (1 + np.exp(-self._linear(b, "gate", x)))
        mixed = self._norm(b.get("o_norm"), mixed)
        out: F64 = mixed @ self._matrix(b["o"])[0].T + self._vector(b.get("o_bias"))
        return out

    def _linear(self, b: Json, which: str, x: F64) -> F64:
        out: F64 = x @ self._matrix(b[which])[0].T + self._vector(b.get(f"{which}_bias"))
        return out

    def _convolution(self, b: Json, x: F64) -> F64:
        taps, width = b["taps"], x.shape[-1]
        kernel = self.weights.vector(b["kernel"]).astype(np.float64).reshape(width, taps)
        u = self._linear(b, "gate_in", x) * self._linear(b, "value", x)
        u = np.concatenate([np.zeros((taps - 1, width)), u])
        mixed = sum(u[j : j + len(x)] * kernel[:, j] for j in range(taps)) + self._vector(b.get("kernel_bias"))
        return self._linear(b, "o", self._linear(b, "gate_out", x) * mixed)

    def _linear_attention(self, b: Json, x: F64) -> F64:
        n, keys, heads = len(x), b["key_heads"], b["value_heads"]
        u = np.concatenate([self._linear(b, which, x) for which in "qkv"], axis=1)
        kernel = self.weights.vector(b["kernel"]).astype(np.float64).reshape(u.shape[1], b["taps"])
        padded = np.concatenate([np.zeros((b["taps"] - 1, u.shape[1])), u])
        u = np.asarray(sum(padded[j : j + n] * kernel[:, j] for j in range(b["taps"])))
        u = _activate(b["activation"], 0.0, u)
        q, k, v = np.split(u, [keys * b["key_dim"], 2 * keys * b["key_dim"]], axis=1)

        def unit(y: F64) -> F64:  # [n, value_heads, key_dim]
            y = np.repeat(y.reshape(n, keys, b["key_dim"]), heads // keys, axis=1)
            out: F64 = y / np.sqrt((y * y).sum(axis=-1, keepdims=True) + 1e-6)
            return out

        q, k, v = unit(q) / math.sqrt(b["key_dim"]), unit(k), v.reshape(n, heads, b["value_dim"])
        beta = 1 / (1 + np.exp(-self._linear(b, "beta", x)))
        steps = np.logaddexp(0, self._linear(b, "decay", x))
        stays = np.exp(-np.exp(self._vector(b["decay_log"])) * steps)
        state, out = np.zeros((heads, b["key_dim"], b["value_dim"])), np.zeros_like(v)
        for t in range(n):
            state = state * stays[t][:, None, None]
            wrong = v[t] - np.einsum("hkv,hk->hv", state, k[t])
            state = state + np.einsum("hk,hv->hkv", k[t], wrong * beta[t][:, None])
            out[t] = np.einsum("hkv,hk->hv", state, q[t])
        gate = self._linear(b, "gate", x)
        return self._linear(b, "o", self._norm(b["norm"], out).reshape(n, -1) * _activate("silu", 0.0, gate))

    def _neurons(self, b: Json, name: str, x: F64, expert: int = 0) -> F64:
        def bias(which: str, count: int) -> F64 | float:
            whole = self._vector(b.get(which))
            return whole[expert * count : (expert + 1) * count] if isinstance(whole, np.ndarray) else whole

        *inputs, down = [*(self._matrix(b["selector"]) if "selector" in b else []), *self._matrix(name)]
        up, limit = x @ inputs[-1].T + bias("up_bias", b["size"]), b.get("limit", np.inf)
        if b["gated"]:
            up = np.maximum(up, 0) if b.get("up_relu") else up
            gate = np.minimum(x @ inputs[0].T + bias("gate_bias", b["size"]), limit)
            up = np.clip(up, -limit, limit) + b.get("up_add", 0.0)
            up = _activate(b["activation"], b["threshold"], gate) * up
        else:
            up = _activate(b["activation"], b["threshold"], up)
        return self._norm(b.get("down_norm"), up) @ down + bias("down_bias", x.shape[-1])

    def _ffn(self, b: Json, x: F64) -> F64:
        if b["kind"] == "ffn":
            y = self._neurons(b, b["matrices"][0], x)
            return y / (1 + np.exp(-x @ self._matrix(b["output_gate"])[0].T)) if "output_gate" in b else y
        scores = x @ self._matrix(b["router"])[0].T + self._vector(b.get("router_bias"))
        p = 1 / (1 + np.exp(-scores)) if b.get("scoring") == "sigmoid" else _softmax(scores)
        ranked = p + self._vector(b.get("choice_bias"))
        out = np.zeros_like(x)
        for t in range(len(x)):
            chosen = np.argsort(-ranked[t], kind="stable")[: b["top_k"]]
            weight = p[t][chosen] / (p[t][chosen].sum() + b.get("normalize_eps", 0.0) if b["normalize"] else 1)
            weight = weight * b.get("routed_scale", 1.0)
            for e, w in zip(chosen, weight, strict=True):
                out[t] += w * self._neurons(b, b["matrices"][e], x[t : t + 1], e)[0]
        return out
