"""Weights as blocks of GGUF: bit for bit where a kind holds a codec's values, else encoded anew.

Equal bit for bit: plain numbers, symmetric affine codes (Q4_0, Q5_0, Q8_0: fewer bits are the inner codes of the next
kind), asymmetric ones up to 5 bits (Q4_1, Q5_1), and palettes that are MXFP4. Layouts:
`edgekit/checkpoint/gguf_types.py`, which reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.checkpoint.gguf_kept import FP4_TABLE
from edgekit.checkpoint.gguf_types import CURVE, KINDS, Kind
from edgekit.codecs.base import F32, U8
from edgekit.codecs.forms import DenseForm, LookupForm
from edgekit.codecs.plain import bf16_bits
from edgekit.converters.weights import Json, Weight

BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS.values()}
NUMBERS = {kind.name: number for number, kind in KINDS.items()}
BLOCK, SUPER = 32, 256
PLAIN = {"f16": "F16", "bf16": "BF16", "f32": "F32"}
HALF_MAX = 65504.0
TRIED = (-7, -4, -2, 0, 2, 4, 7)  # hundredths beside the scale that the largest magnitude asks for


def exact_kind(parts: Sequence[Json], across: bool, mxfp4: Callable[[Json], bool]) -> str | None:
    """The kind that holds all parts bit for bit; None if there is none.

    Args:
        parts: entries of the manifest, of one tensor.
        across: a part's groups lie across the tensor's rows.
        mxfp4: whether a palette with scales is MXFP4.
    """
    codecs = {p["codec"] for p in parts}
    if codecs <= PLAIN.keys():
        return PLAIN[next(iter(codecs))] if len(codecs) == 1 else "F32"
    if across or any(p["cols"] % BLOCK for p in parts):
        return None
    if codecs == {"affine"}:
        bits = max(p["bits"] for p in parts)
        if all(p["symmetric"] for p in parts):
            return "Q4_0" if bits <= 4 else "Q5_0" if bits == 5 else "Q8_0"
        if not any(p["symmetric"] for p in parts) and bits <= 5:
            return "Q4_1" if bits <= 4 else "Q5_1"
    return "MXFP4" if all(mxfp4(p) for p in parts) else None


def nearest_kind(bits: int, cols: int) -> str:
    """The kind in which values are encoded anew, of at least so many bits."""
    if cols % BLOCK:
        return "F16"
    if bits <= 4:
        return "IQ4_NL"
    return "Q6_K" if bits <= 6 and cols % SUPER == 0 else "Q8_0"


def is_fp4(form: LookupForm) -> bool:
    """Whether a palette's values are those of MXFP4."""
    if form.scale is None or form.group_size % BLOCK or form.lut.shape[1] != FP4_TABLE.shape[1]:
        return False
    mantissa, exponent = np.frexp(form.scale)
    inside = (exponent > -120) & (exponent < 120)
    return bool((form.lut == FP4_TABLE).all() and ((form.scale == 0) | ((mantissa == 0.5) & inside)).all())


def packed(form: Weight, kind: str) -> U8:
    """A form's rows as blocks of the kind that `exact_kind` named, u8 [rows, row_bytes]."""
    if isinstance(form, DenseForm):
        return encoded(form.values, kind)
    rows, groups = form.codes.shape[0], form.codes.shape[1] // BLOCK
    codes = form.codes.reshape(-1, BLOCK)
    if isinstance(form, LookupForm):
        assert form.scale is not None
        scale = _by_block(form.scale, form.group_size, groups)
        # weight = scale * (doubled value / 16) = 2^(e - 128) * doubled value
        exponent = np.where(scale > 0, np.frexp(scale)[1] - 1 + 128 - 4, 0).astype(np.uint8)
        empty = np.where(scale > 0, codes, 0)
        return _rows([exponent, _nibbles(empty)], rows)
    scale16 = _by_block(form.scale, form.group_size, groups)
    if form.symmetric:
        middle = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 0}[kind]
        moved = (codes.astype(np.int16) - (1 << (form.bits - 1)) + middle).astype(np.uint8)
        return _rows([_bytes(scale16), *_coded(moved, kind)], rows)
    bias = _by_block(form.bias, form.group_size, groups)
    return _rows([_bytes(scale16), _bytes(bias), *_coded(codes, kind)], rows)


def encoded(values: F32, kind: str) -> U8:
    """Values [rows, cols] as blocks of a kind, rounded to the nearest; u8 [rows, row_bytes]."""
    if kind == "F32":
        return np.ascontiguousarray(values, "<f4").view(np.uint8)
    if kind == "F16":
        return np.clip(values, -HALF_MAX, HALF_MAX).astype("<f2").view(np.uint8)
    if kind == "BF16":
        return bf16_bits(np.ascontiguousarray(values, np.float32)).view(np.uint8)
    return ENCODERS[kind](np.ascontiguousarray(values, np.float32))


def decoded(blocks: U8, kind: str) -> F32:
    """The values of rows of blocks."""
    return BY_NAME[kind].rows(blocks)


def _by_block(values: npt.NDArray[Any], group_size: int, groups: int) -> npt.NDArray[Any]:
    """Values [rows, groups of the codec] for each block of 32, [blocks, 1]."""
    return np.repeat(values, group_size // BLOCK, axis=1)[:, :groups].reshape(-1, 1)


def _bytes(values: npt.NDArray[np.generic]) -> U8:
    """The f16 of each block, u8 [blocks, 2]."""
    return np.ascontiguousarray(values, "<f2").view(np.uint8)


def _rows(pieces: Sequence[U8], rows: int) -> U8:
    return np.ascontiguousarray(np.concatenate(pieces, axis=1)).reshape(rows, -1)


def _nibbles(codes: U8) -> U8:
    half = codes.shape[1] // 2
    low, high = codes[:, :half].astype(np.uint8), codes[:, half:].astype(np.uint8)
    return low | (high << np.uint8(4))


def _coded(codes: U8, kind: str) -> list[U8]:
    """Codes u8 [blocks, 32] as the bytes of a kind."""
    if kind == "Q8_0":
        return [codes]
    if kind.startswith("Q5"):
        return [np.packbits(codes >> np.uint8(4), axis=1, bitorder="little"), _nibbles(codes & np.uint8(15))]
    return [_nibbles(codes)]


def _q8_0(values: F32) -> U8:
    blocks = values.reshape(-1, BLOCK)
    scale = np.minimum(np.abs(blocks).max(axis=1, keepdims=True) / 127, HALF_MAX).astype("<f2")
    codes = np.clip(np.rint(blocks * _inverse(scale.astype(np.float32))), -127, 127).astype(np.int8)
    return _rows([_bytes(scale), codes.view(np.uint8)], len(values))


def _iq4_nl(values: F32) -> U8:
    """Of a few scales around the largest magnitude's, on either side, those with the least error."""
    blocks = values.reshape(-1, BLOCK)
    at = np.abs(blocks).argmax(axis=1)[:, None]
    extreme = np.take_along_axis(blocks, at, axis=1)
    best = np.zeros((len(blocks), 1), np.float32)
    least = np.full((len(blocks), 1), np.inf, np.float32)
    for side in (float(CURVE[0]), float(CURVE[-1])):
        for hundredths in TRIED:
            levels = CURVE[_curve_codes(blocks * _inverse(extreme / (side * (1 + hundredths / 100))))]
            weight = (levels * levels).sum(axis=1, keepdims=True)
            scale = ((levels * blocks).sum(axis=1, keepdims=True) / weight).astype("<f2").astype(np.float32)
            error = np.square(levels * scale - blocks).sum(axis=1, keepdims=True)
            better = error < least
            best, least = np.where(better, scale, best), np.where(better, error, least)
    scale16 = np.clip(best, -HALF_MAX, HALF_MAX).astype("<f2")
    codes = _curve_codes(blocks * _inverse(scale16.astype(np.float32)))
    return _rows([_bytes(scale16), _nibbles(codes)], len(values))


def _curve_codes(scaled: F32) -> U8:
    """The nearest entry of IQ4_NL's table."""
    whole = np.clip(np.rint(np.nan_to_num(scaled)), -128, 127).astype(np.int16) + 128
    return NEAREST[whole]


def _q6_k(values: F32) -> U8:
    """Sixteen groups of sixteen, each with a scale of eight bits, as ggml chooses them from the largest magnitude."""
    supers = values.reshape(-1, 16, 16)
    at = np.abs(supers).argmax(axis=2)[..., None]
    wanted = np.take_along_axis(supers, at, axis=2)[..., 0] / -32  # [n, 16]
    top = np.take_along_axis(wanted, np.abs(wanted).argmax(axis=1)[:, None], axis=1)
    step = np.clip(top / -128, -HALF_MAX, HALF_MAX).astype("<f2")  # [n, 1]
    scales = np.clip(np.rint(wanted * _inverse(step.astype(np.float32))), -128, 127).astype(np.int8)
    real = step.astype(np.float32) * scales.astype(np.float32)
    codes = (np.clip(np.rint(supers * _inverse(real)[..., None]), -32, 31).astype(np.int8) + 32).astype(np.uint8)
    parts = codes.reshape(-1, 2, 4, 32)
    low = (parts & 15).reshape(-1, 2, 2, 64)
    high = parts >> 4
    ql = (low[:, :, 0] | (low[:, :, 1] << np.uint8(4))).reshape(-1, 128)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    qh = np.bitwise_or.reduce(high << shifts, axis=2).reshape(-1, 64)
    return _rows([ql, qh, scales.view(np.uint8), _bytes(step)], len(values))


def _inverse(steps: F32) -> F32:
    out: F32 = np.divide(1.0, steps, out=np.zeros_like(steps, np.float32), where=steps != 0)
    return out


NEAREST: U8 = np.abs(np.arange(-128, 128)[:, None] - CURVE).argmin(axis=1).astype(np.uint8)
ENCODERS: dict[str, Callable[[F32], U8]] = {"Q8_0": _q8_0, "IQ4_NL": _iq4_nl, "Q6_K": _q6_k}
