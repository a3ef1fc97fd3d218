"""A config.json read through a family's names and defaults; hostile until checked."""

from __future__ import annotations

import reprlib
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
    "quick_gelu": "quick_gelu",
}


# Written by edgekit's own training into the config of a checkpoint; every family reads them.
OWN_KEYS = frozenset({"hidden_act_threshold", "ffn_up_relu", "norm_relu"})


# Multimodal model types that nest their text decoder's config -> the decoder's own; None: as the nested part says.
NESTED: dict[str, str | None] = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "idefics3": None,
    "smolvlm": None,
    "lfm2_vl": None,
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
}


# What the text part of Idefics3's and SmolVLM's configs has besides, of which transformers computes nothing.
LEFTOVERS = frozenset(
    {
        "is_llama_config",
        "neftune_noise_alpha",
        "perceiver_config",
        "pixel_shuffle_factor",
        "qk_layer_norms",
        "rope_interleaved",
        "transformers.js_config",
        "use_resampler",
        "_flash_attn_2_enabled",
    }
)


def decoder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The text decoder's part of a config.json, where a multimodal model nests it.

    Raises:
        UnsupportedModelError: the nested part is no object.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in NESTED:
        return dict(config)
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise UnsupportedModelError(f"config.json: text_config is {shown(text)}, which is not an object")
    outer = {k: config[k] for k in ("eos_token_id", "bos_token_id", "tie_word_embeddings") if k in config}
    inner = NESTED[kind] or text.get("model_type", "lfm2" if kind == "lfm2_vl" else "llama")
    own = {k: v for k, v in text.items() if k not in LEFTOVERS}
    return {**own, **outer, "model_type": inner}


def shown(value: Any) -> str:
    """A value of unknown kind and size as a short piece of one line."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an integer with too many digits to be written
        return f"a {type(value).__name__}"


_REPR = reprlib.Repr()
_REPR.maxstring = 80


class Config:
    """Typed access to config.json with a family's field names and defaults.

    A key that the family does not read is as good as absent; a null stands before a default, as in transformers.
    """

    def __init__(self, raw: Mapping[str, Any], family: Family) -> None:
        self.family = family
        renamed = {family.aliases[k]: v for k, v in raw.items() if k in family.aliases}
        self.raw = {**{k: v for k, v in raw.items() if k not in family.aliases}, **renamed}
        self.known = family.reads | OWN_KEYS

    def name(self, key: str) -> str:
        """What the config calls our key; the key itself if the family says nothing."""
        return self.family.fields.get(key, NAMES.get(key, key))

    def get(self, key: str, otherwise: Any = None) -> Any:
        """The value of our key (or of a config field), from the file or the family's defaults."""
        name = self.name(key)
        if name not in self.known:
            return otherwise
        value = self.raw[name] if name in self.raw else self.family.defaults.get(name)
        return otherwise if value is None else value

    def size(self, key: str, otherwise: int | None = None) -> int:
        """A positive dimension.

        Raises:
            UnsupportedModelError: absent, not a whole number, or absurd.
        """
        return self.checked(key, self.get(key, otherwise))

    def checked(self, key: str, value: Any, least: int = 1) -> int:
        """`value` as a dimension, or an error that names `key`."""
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LIMIT:
            raise self.bad(key, value, f"a size between {least} and {LIMIT}")
        return value

    def per_layer(self, key: str, layer: int, otherwise: int | None = None) -> int:
        """A dimension that may be one number or a list with one per layer (OpenELM)."""
        value = self.get(key, otherwise)
        if isinstance(value, list):
            value = value[layer] if layer < len(value) else None
        return self.checked(key, value)

    def number(self, key: str, otherwise: float | None = None) -> float:
        """A finite number."""
        value = self.get(key, otherwise)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 1e30:
            raise self.bad(key, value, "a finite number")
        return float(value)

    def positive(self, key: str, otherwise: float | None = None) -> float:
        """A finite number above zero, not so small that its inverse overflows."""
        value = self.number(key, otherwise)
        if value < 1e-30:
            raise self.bad(key, value, "a positive number")
        return value

    def flag(self, key: str) -> bool:
        """True or false; false where the family has no such key."""
        value = self.get(key)
        name = self.name(key)
        if isinstance(value, bool):
            return value
        if value is None and (name not in self.family.reads or self.family.defaults.get(name) is None):
            return False
        raise self.bad(key, value, "true or false")

    def bad(self, key: str, value: Any, wanted: str) -> UnsupportedModelError:
        """The error for a value that is of the wrong kind or out of range."""
        return UnsupportedModelError(f"config.json: {self.name(key)} is {shown(value)}, which is not {wanted}")

    def activation(self) -> str:
        """Our name of the FFN's activation.

        Raises:
            UnsupportedModelError: the runtime has no such function.
        """
        value = self.get("activation", self.family.activation or None)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.bad("activation", value, f"a known activation; known: {', '.join(sorted(ACTIVATIONS))}")
        return ACTIVATIONS[value]
