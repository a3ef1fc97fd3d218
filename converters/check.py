"""Proves that artifacts compute what the native runtime computes: logits, best tokens, greedy text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgekit.bundle import manifest
from edgekit.codecs.base import F32
from edgekit.converters import base
from edgekit.converters.base import Artifact
from edgekit.converters.engines import Engine, open_engine
from edgekit.errors import ConvertError, EdgekitError, MissingPackageError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options

# Largest logit difference over the largest logit. Artifacts that keep every weight differ by the order of
# additions (f32), by rounding each value to 11 bits (f16) or activations to 8 (int8); re-quantized ones have no bound,
# only a figure.
LIMITS = {"f32": 1e-3, "f16": 1e-2, "int8": 1e-1}
SEED = 20261121
TEXT = (
    "Once upon a time there was a small village by a river. The people of the village worked in the fields by day, "
    "and in the evening they met at the old bridge to tell each other what they had seen."
)
Note = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Verdict:
    """What was found about one artifact.

    Attributes:
        bits_per_weight: all its files, over the model's weights.
        difference: largest difference of a logit, or of a hidden state; None if it cannot run here.
        relative: the same over the largest of them.
        top1: share of positions with the same best token; None of models that write no text.
        same_text: the greedy continuation is the native one; None of models that write no text.
        requantized: relative root mean square error of re-quantized weights, 0 if none were.
        limit: what `relative` must not exceed; None if weights were re-quantized.
        note: why it failed to run.
    """

    kind: str
    bytes: int
    bits_per_weight: float
    difference: float | None = None
    relative: float | None = None
    top1: float | None = None
    same_text: bool | None = None
    requantized: float = 0.0
    limit: float | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ran, and is what it should be."""
        return self.relative is not None and (self.limit is None or self.relative <= self.limit)


def check(bundle: Path, kinds: Sequence[str] = (), tokens: int = 48, note: Note | None = None) -> list[Verdict]:
    """Compares artifacts of a bundle with the native runtime, on a prompt and its greedy continuation.

    Args:
        bundle: its folder.
        kinds: which artifacts; all that are there if empty.
        tokens: prompt and continuation, half each.
        note: called with (artifact, done, of all).

    Raises:
        BundleError: no such artifact, or a damaged one.
        ConvertError: there is none, or a package is missing.
    """
    found = [base.read(bundle, kind) for kind in kinds] or base.find(bundle)
    for artifact in found:
        base.verify(artifact)
    if not found:
        raise ConvertError(f"{bundle}: has no artifacts; make one with 'edgekit export {bundle} --to onnx'")
    data = manifest.read(bundle).data
    weights = sum(m["rows"] * p["cols"] for m in data["matrices"] for p in m["parts"])
    shortest = min(tokens, *(a.about["context"] for a in found))
    reads = data["model"].get("output", "logits") != "logits"
    prompt = _prompt(bundle, data["model"]["vocab_size"], shortest if reads else max(1, shortest // 2))
    text, want = _states(bundle, prompt) if reads else _native(bundle, prompt, shortest)
    out = []
    for i, artifact in enumerate(found):
        (note or (lambda kind, done, total: None))(artifact.kind, i, len(found))
        out.append(_verdict(bundle, artifact, weights, prompt, text, want))
        if artifact.kind == "coreml" and sys.platform == "darwin":
            by_apple = _verdict(bundle, artifact, weights, prompt, text, want, interpreted=False)
            out.append(replace(by_apple, kind="coreml, by Core ML"))
    return out


def _prompt(bundle: Path, vocabulary: int, count: int) -> list[int]:
    """The beginning of a text, or random tokens for a bundle without a tokenizer."""
    try:
        return Tokenizer(bundle / "tokenizer").encode(TEXT)[:count]
    except EdgekitError:
        return [int(t) for t in np.random.default_rng(SEED).integers(0, vocabulary, count)]


def _native(bundle: Path, prompt: list[int], total: int) -> tuple[list[int], F32]:
    """The greedy continuation of a prompt, and the logits of both, f32 [total - 1, vocabulary]."""
    with Session(bundle, Options(context=total, cache_type="f32", select="all", activations="f32")) as session:
        return greedy(session.logits, prompt, total)


def _states(bundle: Path, text: list[int]) -> tuple[list[int], F32]:
    """A text, and its hidden states f32 [tokens, hidden_size]."""
    with Session(bundle, Options(context=len(text), activations="f32")) as session:
        return text, session.embed([TokenText(tuple(text))], states=True).states[0]


def greedy(logits: Callable[[Sequence[int]], F32], prompt: list[int], total: int) -> tuple[list[int], F32]:
    """Evaluates a prompt and its greedy continuation up to `total` tokens."""
    text, pieces = list(prompt), [logits(prompt)]
    while len(text) < total:
        text.append(int(pieces[-1][-1].argmax()))
        if len(text) < total:
            pieces.append(logits(text[-1:]))
    return text, np.concatenate(pieces)


def _forced(engine: Engine, prompt: list[int], text: list[int]) -> F32:
    """Logits of a given text: prompt at once, then one by one."""
    engine.reset()
    return np.concatenate([engine(prompt), *(engine([t]) for t in text[len(prompt) : -1])])


def _verdict(
    bundle: Path,
    artifact: Artifact,
    weights: int,
    prompt: list[int],
    text: list[int],
    want: F32,
    *,
    interpreted: bool = True,
) -> Verdict:
    size = artifact.bytes + _bundle_bytes(bundle, artifact)
    lossless = not artifact.about.get("requantized_weights")
    plain = Verdict(
        artifact.kind,
        size,
        size * 8 / weights,
        requantized=artifact.about.get("requantized_rms", 0.0),
        limit=LIMITS[artifact.about.get("precision", "f32")] if lossless else None,
    )
    try:
        engine = open_engine(
            bundle, artifact.kind, Options(compute="feed_forward", select="all", activations="f32"), check=interpreted
        )
    except MissingPackageError:
        raise
    except ConvertError as error:
        return replace(plain, note=str(error))
    try:
        reads = engine.model.get("output", "logits") != "logits"
        got = engine(text) if reads else _forced(engine, prompt, text)
        engine.reset()
        again = None if reads else greedy(engine.__call__, prompt, len(text))[0]
    except EdgekitError as error:
        return replace(plain, note=str(error))
    except (RuntimeError, ValueError) as error:  # of the format's own runtime
        return replace(plain, note=f"failed: {error}")
    finally:
        engine.close()
    difference = float(np.abs(got - want).max())
    return replace(
        plain,
        difference=difference,
        relative=difference / float(np.abs(want).max()),
        top1=None if reads else float((got.argmax(axis=-1) == want.argmax(axis=-1)).mean()),
        same_text=None if reads else again == text,
    )


def _bundle_bytes(bundle: Path, artifact: Artifact) -> int:
    """Bytes of the bundle that a flash variant uses besides its own files, less the libraries among these."""
    if not artifact.kind.endswith("-flash"):
        return 0
    used = ["flash.bin"] if artifact.kind == "coreml-flash" else ["flash.bin", "resident.bin"]
    libraries = [p for p in artifact.path.iterdir() if p.suffix in (".so", ".dylib")]
    return sum((bundle / name).stat().st_size for name in used) - sum(p.stat().st_size for p in libraries)
