"""Rotary frequencies from a config: the default and every scaling that transformers knows.

Formulas: linear (kaiokendev), dynamic NTK (bloc97, emozilla), YaRN (arXiv 2309.00071), LongRoPE
(arXiv 2402.13753) and Llama 3.1's; the oracle is transformers' modeling_rope_utils.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.arch.config import shown
from edgekit.errors import UnsupportedModelError

Floats = npt.NDArray[np.float32]
NUMBERS = (
    "factor",
    "original_max_position_embeddings",
    "low_freq_factor",
    "high_freq_factor",
    "beta_fast",
    "beta_slow",
    "attention_factor",
    "mscale",
    "mscale_all_dim",
)
KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional")


@dataclass(frozen=True)
class Frequencies:
    """Result of `frequencies`; the fields are those of `spec.Rope`."""

    dim: int
    inv_freq: Floats
    scale: float = 1.0
    long_inv_freq: Floats | None = None
    dynamic: tuple[float, float] | None = None
    switch_length: int = 0
    max_context: int = 0


def _plain(base: float, dim: int) -> Floats:
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    inverse: Floats = (1.0 / np.power(np.float32(base), exponent, dtype=np.float32)).astype(np.float32)
    return inverse


def frequencies(params: Mapping[str, Any], dim: int, context: int) -> Frequencies:
    """Inverse frequencies for one kind of layer.

    Args:
        params: rope parameters: `rope_theta`, `rope_type`, and what that type needs.
        dim: rotated values of a head, even.
        context: the config's max_position_embeddings.

    Raises:
        UnsupportedModelError: unknown type, or a parameter is missing.
    """
    with np.errstate(all="ignore"):
        made = _frequencies(_checked(params), dim, context)
    rates = [made.inv_freq] if made.long_inv_freq is None else [made.inv_freq, made.long_inv_freq]
    if not dim or not math.isfinite(made.scale) or not all(np.isfinite(r).all() for r in rates):
        raise UnsupportedModelError("config.json: the rope parameters give positions that are not finite")
    return made


def _checked(params: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in NUMBERS:
        value = params.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e30
        ):
            raise UnsupportedModelError(
                f"config.json: {key} of the rope parameters is {shown(value)}, which is not a finite number"
            )
    if params.get("factor") == 0:
        raise UnsupportedModelError("config.json: factor of the rope parameters is 0, which divides nothing")
    return params


def _frequencies(params: Mapping[str, Any], dim: int, context: int) -> Frequencies:
    named = params.get("rope_type") or params.get("type") or "default"
    kind = named if isinstance(named, str) else shown(named)
    kind = "longrope" if kind == "su" else kind
    base = params["rope_theta"]
    if isinstance(base, bool) or not isinstance(base, int | float) or not 1e-30 < base < 1e30:
        raise UnsupportedModelError(f"config.json: rope_theta is {shown(base)}, which is not a positive number")
    base = float(base)
    # Without the original length, the config's context is the long one already.
    scaled = params.get("original_max_position_embeddings") is not None
    if kind in ("llama3", "yarn", "longrope") and params.get("original_max_position_embeddings") is None:
        params = {**params, "original_max_position_embeddings": context}  # as transformers does
    inv = _plain(base, dim)
    try:
        if kind == "default":
            return Frequencies(dim, inv, max_context=context)
        if kind == "proportional":
            return Frequencies(dim, _proportional(params, inv), max_context=context)
        if kind == "longrope":
            return _longrope(params, base, dim, context)
        factor = float(params.get("factor") or 1.0)
        original = int(params.get("original_max_position_embeddings") or context)
        longest = max(context, int(original * factor)) if scaled else context
        if kind == "linear":
            return Frequencies(dim, (inv / np.float32(factor)).astype(np.float32), max_context=longest)
        if kind == "dynamic":
            longest = max(context, int(context * factor))
            return Frequencies(dim, inv, dynamic=(base, factor), switch_length=context, max_context=longest)
        if kind == "yarn":
            return _yarn(params, base, dim, context, longest)
        if kind == "llama3":
            return Frequencies(dim, _llama3(params, inv), max_context=context)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UnsupportedModelError(
            f"config.json: rope scaling of type '{kind}' has a bad or missing parameter ({shown(str(error))})"
        ) from error
    raise UnsupportedModelError(f"config.json: rope type {shown(kind)} is unknown; known: {', '.join(KINDS)}")


def _proportional(params: Mapping[str, Any], inv: Floats) -> Floats:
    """The first pairs rotate, at the rates that they have among all of the head; the others stay."""
    turning = int(float(params.get("partial_rotary_factor", 1.0)) * 2 * len(inv) // 2)
    return np.where(np.arange(len(inv)) < turning, inv / np.float32(params.get("factor", 1.0)), 0).astype(np.float32)


def _llama3(params: Mapping[str, Any], inv: Floats) -> Floats:
    factor, old = float(params["factor"]), float(params["original_max_position_embeddings"])
    low, high = float(params["low_freq_factor"]), float(params["high_freq_factor"])
    wavelength = 2 * math.pi / inv
    scaled = np.where(wavelength > old / low, inv / factor, inv)
    smooth = (old / wavelength - low) / (high - low)
    smoothed = (1 - smooth) * scaled / factor + smooth * scaled
    medium = ~(wavelength < old / high) & ~(wavelength > old / low)
    return np.where(medium, smoothed, scaled).astype(np.float32)


def _yarn(params: Mapping[str, Any], base: float, dim: int, context: int, longest: int) -> Frequencies:
    original = float(params["original_max_position_embeddings"])
    factor = float(params.get("factor") or context / original)

    def mscale(by: float, weight: float = 1.0) -> float:
        return 1.0 if by <= 1 else 0.1 * weight * math.log(by) + 1.0

    attention = params.get("attention_factor")
    if attention is None:
        m, all_dim = params.get("mscale"), params.get("mscale_all_dim")
        attention = mscale(factor, m) / mscale(factor, all_dim) if m and all_dim else mscale(factor)

    def correction(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = correction(params.get("beta_fast") or 32), correction(params.get("beta_slow") or 1)
    if params.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    plain = _plain(base, dim)
    inv = plain / factor * ramp + plain * (1 - ramp)
    return Frequencies(dim, inv.astype(np.float32), float(attention), max_context=longest)


def _longrope(params: Mapping[str, Any], base: float, dim: int, context: int) -> Frequencies:
    original = int(params["original_max_position_embeddings"])
    factor = params.get("factor")
    factor = float(factor) if factor is not None else context / original
    attention = params.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    plain = np.float32(base) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))

    def scaled(key: str) -> Floats:
        factors = np.asarray(params[key], dtype=np.float32)
        if factors.shape != (dim // 2,):
            raise ValueError(f"{key} must have {dim // 2} values")
        return (1.0 / (factors * plain)).astype(np.float32)

    return Frequencies(
        dim,
        scaled("short_factor"),
        float(attention),
        long_inv_freq=scaled("long_factor"),
        switch_length=original,
        max_context=context,
    )
