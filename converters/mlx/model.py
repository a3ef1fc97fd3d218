"""Runs the exact MLX variant: the walk of `lower`, its operations computed by MLX at once.

Palettes have no kernel in MLX: their weight is looked up for each product. Affine weights use
`mx.quantized_matmul`, the down projection untransposed, as the bundle holds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

from edgekit.codecs.base import F32
from edgekit.converters.lower import Emitter, feed_forward, lower
from edgekit.converters.mlx.export_exact import CONFIG, WEIGHTS
from edgekit.converters.weights import Json, Part, find_vector

Array = mx.array
FeedForward = Callable[[int, F32], F32]  # (block, x [tokens, hidden]) -> the block's output


class MlxModel(Emitter[Array]):
    """An open folder with its cache. `flash` computes feed-forward blocks elsewhere."""

    def __init__(self, folder: Path, dtype: mx.Dtype = mx.float32, flash: FeedForward | None = None) -> None:
        config = json.loads((folder / CONFIG).read_text())
        self.model: Json = config["model"]
        self.parts: Json = config["parts"]
        self.stored: dict[str, Array] = mx.load(str(folder / WEIGHTS))  # type: ignore[assignment]
        self.dtype, self.flash = dtype, flash
        self.reset()

    def reset(self) -> None:
        """Forgets all tokens."""
        self.position = self.count = 0
        self.cache: dict[int, tuple[Array, ...]] = {}

    def __call__(self, tokens: list[int]) -> F32:
        """Appends tokens; their logits f32 [tokens, vocabulary]."""
        self.count = len(tokens)
        logits = lower(self.model, self, mx.array([tokens]))
        self.position += self.count
        mx.eval(logits, [a for pair in self.cache.values() for a in pair])
        return np.array(logits[0].astype(mx.float32))

    # --- weights -----------------------------------------------------------------------------

    def _vector(self, name: str) -> Array:
        out: Array = find_vector(name, self.stored.__getitem__).astype(self.dtype)
        return out

    def _scales(self, name: str) -> tuple[Array, Array]:
        return self.stored[f"{name}.scales"].astype(self.dtype), self.stored[f"{name}.biases"].astype(self.dtype)

    def _codes(self, packed: Array, bits: int) -> Array:
        """Integers from packed words: what dequantizing with scale 1 and bias 0 gives."""
        groups = (*packed.shape[:-1], packed.shape[-1] // bits)
        one = mx.ones(groups, mx.float16)
        return mx.dequantize(packed, one, mx.zeros_like(one), group_size=32, bits=bits).astype(mx.uint32)

    def _looked_up(self, name: str, told: Json, rows: Array, packed: Array) -> Array:
        """Palette rows [..., cols]; `rows`: their numbers [...]."""
        base = (rows // told["lut_rows"]).astype(mx.uint32) << told["bits"]
        codes = self._codes(packed, told["bits"])[..., : told["cols"]]
        values = mx.take(self.stored[f"{name}.lut"].reshape(-1).astype(self.dtype), codes + base[..., None])
        if "group_size" not in told:
            return values
        scales = self.stored[f"{name}.scales"][rows].astype(self.dtype)
        return values * scales[..., mx.arange(told["cols"]) // told["group_size"]]

    def _palette(self, name: str, told: Json) -> Array:
        packed = self.stored[f"{name}.codes"]
        return self._looked_up(name, told, mx.arange(packed.shape[0]), packed)

    def lookup(self, weight: Part, ids: Array) -> Array:
        name, told = weight.label, self.parts[weight.label]
        if told["kind"] == "plain":
            return self.stored[name][ids].astype(self.dtype)
        packed = self.stored[f"{name}.codes"][ids]
        if told["kind"] == "palette":
            return self._looked_up(name, told, ids, packed)
        scales, biases = self._scales(name)
        rows = mx.dequantize(packed, scales[ids], biases[ids], group_size=told["group_size"], bits=told["bits"])
        return rows[..., : told["cols"]]

    def linear(self, x: Array, weight: Part, bias: str | None = None) -> Array:
        name, told = weight.label, self.parts[weight.label]
        if told["kind"] == "plain":
            y = x @ self.stored[name].astype(self.dtype).T
        elif told["kind"] == "palette":
            y = x @ self._palette(name, told).T
        else:
            x = mx.pad(x, [(0, 0), (0, 0), (0, -told["cols"] % told["group_size"])])
            y = self._quantized(x, name, told, True)
        return y if bias is None else y + self._vector(bias)

    def mix(self, x: Array, weight: Part, bias: str | None = None) -> Array:
        name, told = weight.label, self.parts[weight.label]
        if told["kind"] == "plain":
            y = x @ self.stored[name].astype(self.dtype)
        elif told["kind"] == "palette":
            y = x @ self._palette(name, told)
        else:
            y = self._quantized(x, name, told, False)[..., : told["cols"]]
        return y if bias is None else y + self._vector(bias)

    def _quantized(self, x: Array, name: str, told: Json, transpose: bool) -> Array:
        scales, biases = self._scales(name)
        codes, group, bits = self.stored[f"{name}.codes"], told["group_size"], told["bits"]
        return mx.quantized_matmul(x, codes, scales, biases, transpose=transpose, group_size=group, bits=bits)

    # --- arithmetic --------------------------------------------------------------------------

    def positions(self) -> Array:
        first = self.position + self.model["embedding"].get("position_offset", 0)
        return mx.arange(first, first + self.count)[None]

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def mul(self, a: Array, b: Array) -> Array:
        return a * b

    def scale(self, x: Array, by: float) -> Array:
        return x * by

    def cap(self, x: Array, at: float) -> Array:
        return at * mx.tanh(x / at)

    def activate(self, kind: str, threshold: float, x: Array) -> Array:
        if kind == "silu":
            return x * mx.sigmoid(x)
        if kind == "gelu":
            return x * (1 + mx.erf(x / 2**0.5)) / 2
        if kind == "gelu_tanh":
            return 0.5 * x * (1 + mx.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
        if kind == "threshold":
            return mx.where(x > threshold, x, mx.zeros_like(x))
        y = mx.maximum(x - threshold if kind == "shifted_relu" else x, 0)
        return y * y if kind == "relu2" else y

    def clamp(self, x: Array, least: float | None, most: float) -> Array:
        return mx.minimum(x if least is None else mx.maximum(x, least), most)

    def sigmoid(self, x: Array) -> Array:
        return mx.sigmoid(x)

    def norm(self, norm: Json, x: Array, heads: int = 0) -> Array:
        shape = x.shape
        y = x.reshape(*shape[:-1], heads, -1) if heads else x
        weight = self._vector(norm["weight"]) if norm.get("weight") else None
        bias = self._vector(norm["bias"]) if norm.get("bias") else None
        if norm["kind"] == "layer":
            y = mx.fast.layer_norm(y, weight, bias, norm["eps"])
        else:
            y = mx.fast.rms_norm(y, weight, norm["eps"])
            y = y if bias is None else y + bias
        return y.reshape(shape)

    # --- attention and experts ---------------------------------------------------------------

    def _frequencies(self, rope: Json) -> Array:
        """Of the length that the text has after this call (LongRoPE, dynamic NTK)."""
        length, switch = self.position + self.count, rope.get("switch_length", 0)
        if not 0 < switch < length:
            return self.stored[rope["inv_freq"]]
        if rope["kind"] != "dynamic":
            return self.stored[rope["long_inv_freq" if "long_inv_freq" in rope else "inv_freq"]]
        grown = rope["factor"] * length / switch - (rope["factor"] - 1)
        base, dim = rope["base"] * grown ** (rope["dim"] / (rope["dim"] - 2)), rope["dim"]
        return mx.array((base ** -(np.arange(0, dim, 2) / dim)).astype(np.float32))

    def _rotated(self, rope: Json, x: Array) -> Array:
        """x [1, heads, tokens, head_dim]"""
        angle = mx.arange(self.position, self.position + self.count)[:, None] * self._frequencies(rope)
        cos, sin = ((f(angle) * rope["scale"]).astype(self.dtype) for f in (mx.cos, mx.sin))
        half = rope["dim"] // 2
        a, b = x[..., :half], x[..., half : 2 * half]
        return mx.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)

    def attend(self, q: Array, k: Array, v: Array, block: Json, layer: int) -> Array:
        def heads(x: Array, count: int) -> Array:
            return x.reshape(1, self.count, count, -1).transpose(0, 2, 1, 3)

        kv = block["kv_heads"]
        queries, keys, values = heads(q, block["heads"]), heads(k, kv), heads(v, kv)
        if block.get("rope") is not None:
            rope = self.model["ropes"][block["rope"]]
            queries, keys = self._rotated(rope, queries), self._rotated(rope, keys)
        if layer in self.cache:
            before = self.cache[layer]
            keys, values = (mx.concatenate([old, new], axis=2) for old, new in zip(before, (keys, values), strict=True))
        self.cache[layer] = (keys, values)
        mask = self._mask(block["window"])
        if block["softcap"] or "sinks" in block:
            out = self._scored(queries, keys, values, mask, block)
        else:
            out = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=block["scale"], mask=mask)
        return out.transpose(0, 2, 1, 3).reshape(1, self.count, -1)

    def _mask(self, window: int) -> Array | None:
        """Whether a token sees a position, [tokens, positions]; None if all are seen."""
        total = self.position + self.count
        if self.count == 1 and (not window or total <= window):
            return None
        distance = mx.arange(self.position, total)[:, None] - mx.arange(total)[None]
        seen = distance >= 0
        return seen & (distance < window) if window else seen

    def _scored(self, q: Array, k: Array, v: Array, mask: Array | None, block: Json) -> Array:
        group = block["heads"] // block["kv_heads"]
        scores = (q @ mx.repeat(k, group, axis=1).swapaxes(-1, -2)) * block["scale"]
        scores = self.cap(scores, block["softcap"]) if block["softcap"] else scores
        scores = scores if mask is None else mx.where(mask, scores, mx.array(-float("inf"), scores.dtype))
        if "sinks" in block:
            sinks = mx.broadcast_to(self._vector(block["sinks"])[None, :, None, None], (*scores.shape[:-1], 1))
            scores = mx.concatenate([scores, sinks], axis=-1)
        return mx.softmax(scores, axis=-1, precise=True)[..., : k.shape[2]] @ mx.repeat(v, group, axis=1)

    def convolve(self, x: Array, block: Json, layer: int) -> Array:
        taps, width = block["taps"], x.shape[-1]
        kernel = self._vector(block["kernel"]).reshape(width, taps)
        (before,) = self.cache.get(layer, (mx.zeros((1, taps - 1, width), x.dtype),))
        joined = mx.concatenate([before, x], axis=1)
        self.cache[layer] = (joined[:, self.count :],)
        mixed = sum((joined[:, j : j + self.count] * kernel[:, j] for j in range(taps)), mx.zeros_like(x))
        return mixed if block.get("kernel_bias") is None else mixed + self._vector(block["kernel_bias"])

    def recur(self, q: Array, k: Array, v: Array, beta: Array, decay: Array, block: Json, layer: int) -> Array:
        heads, keys, d, taps = block["value_heads"], block["key_heads"], block["key_dim"], block["taps"]
        x = mx.concatenate([q, k, v], axis=-1)
        kernel = self._vector(block["kernel"]).reshape(x.shape[-1], taps)
        nothing = (
            mx.zeros((1, taps - 1, x.shape[-1]), x.dtype),
            mx.zeros((1, heads, d, block["value_dim"]), mx.float32),
        )
        before, state = self.cache.get(layer, nothing)
        joined = mx.concatenate([before, x], axis=1)
        x = sum((joined[:, j : j + self.count] * kernel[:, j] for j in range(taps)), mx.zeros_like(x))
        x = self.activate(block["activation"], 0, x).astype(mx.float32)

        def unit(part: Array) -> Array:  # [1, tokens, value_heads, key_dim]
            part = part.reshape(1, self.count, keys, d)
            part = part / mx.sqrt((part * part).sum(axis=-1, keepdims=True) + 1e-6)
            return mx.repeat(part, heads // keys, axis=2)

        queries, found = unit(x[..., : keys * d]) * d**-0.5, unit(x[..., keys * d : 2 * keys * d])
        values = x[..., 2 * keys * d :].reshape(1, self.count, heads, -1)
        rate = mx.exp(self._vector(block["decay_log"]).astype(mx.float32))
        stays = mx.exp(-rate * mx.logaddexp(decay.astype(mx.float32), mx.array(0.0)))[..., None, None]
        written, out = mx.sigmoid(beta.astype(mx.float32))[..., None], []
        for t in range(self.count):
            state = state * stays[:, t]
            change = (values[:, t] - (state * found[:, t, :, :, None]).sum(axis=2)) * written[:, t]
            state = state + found[:, t, :, :, None] * change[:, :, None]
            out.append((state * queries[:, t, :, :, None]).sum(axis=2))
        self.cache[layer] = (joined[:, self.count :], state)
        return mx.stack(out, axis=1).reshape(1, self.count, -1).astype(self.dtype)

    def route(self, logits: Array, block: Json) -> Array:
        p = mx.sigmoid(logits) if block.get("scoring") == "sigmoid" else mx.softmax(logits, axis=-1, precise=True)
        ranked = p if block.get("choice_bias") is None else p + self._vector(block["choice_bias"])
        chosen = mx.argsort(-ranked, axis=-1)[..., : block["top_k"]]
        best = mx.take_along_axis(p, chosen, axis=-1)
        if block["normalize"]:
            best = best / (best.sum(axis=-1, keepdims=True) + block.get("normalize_eps", 0.0))
        best = best * block.get("routed_scale", 1.0)
        return mx.put_along_axis(mx.zeros_like(p), chosen, best, axis=-1)

    def column(self, x: Array, index: int) -> Array:
        return x[..., index : index + 1]

    def feed_forward(self, block: Json, index: int, x: Array) -> Array:
        if self.flash is None:
            return feed_forward(self, block, x)
        return mx.array(self.flash(index, np.array(x[0].astype(mx.float32)))).astype(self.dtype)[None]
