"""Inputs of the feed-forward blocks on calibration text, and which neurons they make active."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle.layout import SPARSE
from edgekit.bundle.weights import BundleWeights
from edgekit.errors import ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

F32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Progress = Callable[[int, int], None]
ROWS = 2048  # neurons at a time


def documents(paths: Iterable[Path]) -> Iterator[str]:
    """Texts of files: `text` of each line of a .jsonl, or the parts of a plain file between
    `<|endoftext|>`, or else its paragraphs.

    Raises:
        ConvertError: a file cannot be read.
    """
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConvertError(f"{path}: cannot read the calibration text: {error.strerror}") from error
        if path.suffix == ".jsonl":
            yield from _json_lines(path, text)
            continue
        mark = "<|endoftext|>" if "<|endoftext|>" in text else "\n\n"
        yield from (part.strip() for part in text.split(mark) if part.strip())


def _json_lines(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        try:
            found = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConvertError(f"{path}: line {number} is not a JSON object with a 'text'") from error
        yield str(found)


def token_runs(tokenizer: Tokenizer, texts: Iterable[str], tokens: int, length: int) -> list[list[int]]:
    """Token ids in runs of at most `length`, `tokens` in all.

    Raises:
        ConvertError: there is not enough text to say anything.
    """
    runs: list[list[int]] = []
    left = tokens
    for text in texts:
        ids = tokenizer.encode(text)[: min(length, left)]
        if len(ids) > 1:
            runs.append(ids)
            left -= len(ids)
        if left <= 1:
            break
    if tokens - left < 64:
        raise ConvertError("the text has fewer than 64 tokens; give more text")
    return runs


def capture_inputs(
    bundle: Path, runs: Sequence[Sequence[int]], folder: Path, ram: int, progress: Progress
) -> dict[int, Path]:
    """Runs a bundle over token runs; the inputs of block i go to a file, f32 [tokens, hidden].

    Args:
        bundle: the model, in any layout.
        runs: token ids; each run is a text of its own.
        folder: where the files go.
        ram: budget of the runtime; weights beyond it are streamed.
        progress: called with (tokens done, of all).

    Raises:
        OSError: the disk takes no more.
    """
    total, done = sum(len(r) for r in runs), 0
    files: dict[int, Any] = {}
    paths: dict[int, Path] = {}
    failed: list[OSError] = []
    with Session(bundle, Options(ram=ram, context=max(len(r) for r in runs), select="all")) as session:

        def take(block: int, x: F32) -> None:
            try:
                if block not in files:
                    paths[block] = folder / f"inputs-{block}.f32"
                    files[block] = paths[block].open("wb")
                files[block].write(x.tobytes())
            except OSError as error:  # nothing can be raised through the runtime that calls this
                failed.append(error)

        try:
            with session.capturing(take):
                for ids in runs:
                    session.read(ids)
                    if failed:
                        raise failed[0]
                    done += len(ids)
                    progress(done, total)
        finally:
            for file in files.values():
                file.close()
    return paths


@dataclass(frozen=True)
class Selecting:
    """The part of a block that decides whether neurons are active: a source of rows, f32."""

    weights: BundleWeights
    block: dict[str, Any]

    @property
    def size(self) -> int:
        """Neurons."""
        return int(self.block["size"])

    def rows(self) -> Iterator[tuple[int, F32]]:
        """(first row, rows [n, hidden]) for all neurons, some at a time."""
        name = self.block.get("selector") or self.block["matrices"][0]
        for begin in range(0, self.size, ROWS):
            yield begin, self.weights.rows(name, 0, begin, min(begin + ROWS, self.size))

    def bias(self) -> F32:
        """[size]"""
        name = self.block.get("gate_bias" if self.block["gated"] else "up_bias")
        return np.zeros(self.size, np.float32) if name is None else np.asarray(self.weights.vector(name), np.float32)


def activations(source: Selecting, x: F32) -> Iterator[tuple[int, F32]]:
    """(first neuron, pre-activations [tokens, n] without the bias) for all neurons, some at a time."""
    for begin, rows in source.rows():
        yield begin, x @ rows.T


def magnitude(block: dict[str, Any], z: F32) -> F32:
    """|act(z)| of pre-activations."""
    name = block["activation"]
    if name in SPARSE:
        least = block["threshold"] if name in ("threshold", "shifted_relu") else 0.0
        return np.where(z > least, z, 0).astype(np.float32)
    if name == "silu":
        out: F32 = np.abs(z / (1 + np.exp(-z)))
    else:  # both gelus: they differ by less than 5e-4, which no cut can tell
        out = np.abs(0.5 * z * (1 + np.tanh(np.float32(0.7978845608) * (z + 0.044715 * z**3))))
    return out


def active(source: Selecting, x: F32, share: float | None = None) -> Bools:
    """Which neurons are active for inputs [tokens, hidden], bool [tokens, size].

    `share`: for activations that are never zero, the share of neurons that counts as active (those of
    largest magnitude in the block as a whole).
    """
    out = np.zeros((len(x), source.size), dtype=np.bool_)
    bias = source.bias()
    cut = 0.0
    if source.block["activation"] not in SPARSE:
        sample = np.concatenate(
            [magnitude(source.block, z + bias[b : b + z.shape[1]])[:64] for b, z in activations(source, x)], axis=1
        )
        cut = float(np.quantile(sample, 1 - (share or 0.5)))
    for begin, z in activations(source, x):
        end = begin + z.shape[1]
        out[:, begin:end] = magnitude(source.block, z + bias[begin:end]) > cut
    return out


def cuts(source: Selecting, x: F32) -> F32:
    """|act| below which a tenth, two tenths, ... nine tenths of the block's neurons lie, f32 [9].

    Source: CATS (arXiv 2404.08763), thresholds from the empirical distribution of activations.
    """
    bias = source.bias()
    x = x[:: max(1, len(x) // 256)]
    sample = [magnitude(source.block, z + bias[b : b + z.shape[1]]).reshape(-1) for b, z in activations(source, x)]
    return np.quantile(np.concatenate(sample), np.arange(1, 10) / 10).astype(np.float32)


__all__ = ["Selecting", "activations", "active", "capture_inputs", "cuts", "documents", "token_runs"]
