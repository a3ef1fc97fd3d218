"""A config.json read through a family's names and defaults; hostile until checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.arch.family import Family
from edgekit.errors import UnsupportedModelError

LIMIT = 1 << 24  # larger than any dimension of any model; keeps products far from overflow

NAMES: dict[str, str] = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "ffn": "intermediate_size",
    "context": "max_position_embeddings",
    "activation": "hidden_act",
    "eps": "rms_norm_eps",
    "window": "sliding_window",
    "top_k": "num_experts_per_tok",
    "tied": "tie_word_embeddings",
    "partial_rotary": "partial_rotary_factor",
    "vocab": "vocab_size",
}

ACTIVATIONS: dict[str, str] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
    "relu_squared": "relu2",
    "threshold": "threshold",
    "shifted_relu": "shifted_relu",
}


class Config:
    """Typed access to config.json with a family's field names and defaults."""

    def __init__(self, raw: Mapping[str, Any], family: Family) -> None:
        self.raw, self.family = raw, family

    def names(self, key: str) -> tuple[str, ...]:
        """What the config may call our key; the key itself if the family says nothing."""
        names = self.family.fields.get(key, NAMES.get(key, key))
        return (names,) if isinstance(names, str) else names

    def get(self, key: str, otherwise: Any = None) -> Any:
        """The value of our key (or of a config field), from the file or the family's defaults."""
        names = self.names(key)
        sources = (self.raw, self.family.defaults)
        value = next((t[n] for t in sources for n in names if t.get(n) is not None), None)
        return otherwise if value is None else value

    def size(self, key: str, otherwise: int | None = None) -> int:
        """A positive dimension.

        Raises:
            UnsupportedModelError: absent, not a whole number, or absurd.
        """
        return self.checked(key, self.get(key, otherwise))

    def checked(self, key: str, value: Any) -> int:
        """`value` as a dimension, or an error that names `key`."""
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LIMIT:
            name = self.names(key)[0]
            raise UnsupportedModelError(f"config.json: {name} is {value!r}, which is not a size between 1 and {LIMIT}")
        return value

    def per_layer(self, key: str, layer: int, otherwise: int | None = None) -> int:
        """A dimension that may be one number or a list with one per layer (OpenELM)."""
        value = self.get(key, otherwise)
        if isinstance(value, list):
            value = value[layer] if layer < len(value) else None
        return self.checked(key, value)

    def number(self, key: str, otherwise: float = 0.0) -> float:
        """A finite number."""
        value = self.get(key, otherwise)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 1e30:
            raise UnsupportedModelError(f"config.json: {key} is {value!r}, which is not a finite number")
        return float(value)

    def activation(self) -> str:
        """Our name of the FFN's activation.

        Raises:
            UnsupportedModelError: the runtime has no such function.
        """
        name = str(self.get("activation", "silu"))
        if name not in ACTIVATIONS:
            known = ", ".join(sorted(ACTIVATIONS))
            raise UnsupportedModelError(f"config.json: activation '{name}' is unknown; known: {known}")
        return ACTIVATIONS[name]
