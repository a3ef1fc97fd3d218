"""Gated blocks with ReLU for formats whose code computes SiLU: the same weights, multiplied by powers of two.

x sigmoid(c x) is ReLU but for |x| < 10 / c, where it is off by 0.28 / c at most: c goes into gate, its inverse into up
and down, powers of two, so that no code changes.
"""

from __future__ import annotations

from edgekit.converters.weights import Json, Weights, feed_forward_parts

STEEPNESS = {"f32": 2.0**20, "f16": 2.0**10}


def wide(weights: Weights) -> bool:
    """Whether a bundle's weights are all f32."""
    return all(p["codec"] == "f32" for m in weights.bundle.data["matrices"] for p in m["parts"])


def steep_factors(weights: Weights, about: Json) -> dict[str, float]:
    """Factors of the weights and biases of gated blocks with ReLU, by label; tells `about` if there are any."""
    out: dict[str, float] = {}
    c = STEEPNESS["f32" if wide(weights) else "f16"]
    for block in weights.model["blocks"]:
        if block["kind"] not in ("ffn", "experts") or block["activation"] != "relu" or not block["gated"]:
            continue
        about["relu_as_silu"] = c
        for matrix in block["matrices"]:
            gate, up, down = feed_forward_parts(block, matrix)
            assert gate is not None
            out |= {gate.label: c, up.label: c**-0.5, down.label: c**-0.5}
        out |= {block[name]: f for name, f in (("gate_bias", c), ("up_bias", c**-0.5)) if name in block}
    return out
