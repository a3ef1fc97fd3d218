"""Texts to vectors, and documents in the order of a query, by the model of a bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekit.errors import RuntimeFailure
from edgekit.generate.tokenizer import Cut, Tokenizer
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.session import Session

F32 = npt.NDArray[np.float32]
Json = Mapping[str, Any]
SOME = 256  # texts that one call of the runtime gets, between which a person may interrupt
WRITER = "logits"  # the output of models that write


def require_writer(model: Json) -> None:
    """Refuses a model that writes no text; `model`: the manifest's.

    Raises:
        RuntimeFailure: says what to do instead.
    """
    output = model.get("output", WRITER)
    if output == "score":
        raise RuntimeFailure("this model scores documents and writes no text; use 'edgekit rerank' or model.rerank")
    if output != WRITER:
        raise RuntimeFailure("this model makes vectors of texts and writes none; use 'edgekit embed' or model.embed")


@dataclass(frozen=True)
class Ranked:
    """A document and how well it answers a query.

    Attributes:
        index: its place among the documents that were given.
        score: more is better; from 0 to 1 where the model was trained so.
    """

    index: int
    score: float


class Embedder:
    """The texts of a model that makes vectors or scores."""

    def __init__(self, manifest: Json, tokenizer: Tokenizer, context: int) -> None:
        """`manifest`: of the bundle; `context`: most tokens that the open model takes."""
        self.model: Json = manifest["model"]
        self.tokenizer = tokenizer
        self.pooling: Json = self.model.get("pooling") or {}
        table = self.model["embedding"].get("types")
        self._types = next((m["rows"] for m in manifest["matrices"] if m["name"] == table), 1)
        self.length = min(context, self.pooling.get("max_length", context))
        self.prompts: dict[str, str] = dict(self.pooling.get("prompts", []))

    def prompt(self, name: str | None) -> str:
        """What is put before texts.

        Args:
            name: of a prompt of the model; None for the one it uses by default.

        Raises:
            RuntimeFailure: there is no such prompt.
        """
        chosen = self.pooling.get("default_prompt", "") if name is None else name
        if not chosen:
            return ""
        if chosen not in self.prompts:
            listed = ", ".join(self.prompts) or "none"
            raise RuntimeFailure(f"the model has no prompt {chosen[:80]!r}; its prompts: {listed}")
        return self.prompts[chosen]

    def text(self, text: str, prompt: str = "") -> Cut:
        """A text's tokens, cut to what the model takes; spaces around it do not count, as in sentence-transformers.

        Raises:
            RuntimeFailure: it is no valid text, or one without tokens.
        """
        return self._cut(prompt + text, None)

    def pair(self, query: str, document: str) -> Cut:
        """The tokens of a query and a document.

        Raises:
            RuntimeFailure: as `text`.
        """
        return self._cut(query, document)

    def _cut(self, first: str, second: str | None) -> Cut:
        lower = self.pooling.get("lowercase", False)
        texts = [t if t is None else (t.strip().lower() if lower else t.strip()) for t in (first, second)]
        found = self.tokenizer.cut(texts[0] or "", texts[1], self.length)
        if not found.ids:
            raise RuntimeFailure("a text without tokens has no vector; give a text that is not empty")
        return found

    def tokens(self, cut: Cut) -> TokenText:
        """Of a text, as the runtime takes them: with types where the model tells them apart."""
        return TokenText(cut.ids, cut.types if self._types > 1 and any(cut.types) else ())

    def vectors(
        self,
        session: Session,
        texts: Sequence[TokenText],
        pooling: str | None = None,
        normalize: bool | None = None,
        dimensions: int | None = None,
    ) -> F32:
        """Vectors f32 [texts, dimensions] of texts.

        Args:
            session: of the open model.
            texts: their tokens.
            pooling: another than the model's; see `Session.embed`.
            normalize: whether to divide by the length; None for as the model does.
            dimensions: only the first of them, for models that were trained so (Matryoshka); where vectors are
                normalized, what is left is too.

        Raises:
            RuntimeFailure: the model makes none, or no so many dimensions.
        """
        if self.model.get("output") == "score":
            raise RuntimeFailure(
                "this model scores documents and makes no vectors; use 'edgekit rerank' or model.rerank"
            )
        width = self.model["hidden_size"]
        if dimensions is not None and not 1 <= dimensions <= width:
            raise RuntimeFailure(f"the model's vectors have {width} dimensions, so {dimensions} cannot be had")
        whole = np.zeros((len(texts), width), dtype=np.float32)
        for begin in range(0, len(texts), SOME):
            part = texts[begin : begin + SOME]
            whole[begin : begin + len(part)] = session.embed(part, pooling, normalize).vectors
        return shortened(whole, dimensions, self.pooling.get("normalize", False) if normalize is None else normalize)

    def scores(self, session: Session, pairs: Sequence[TokenText], raw: bool = False) -> list[float]:
        """Scores of pairs; `raw`: what the head gives, without a sigmoid.

        Raises:
            RuntimeFailure: the model makes none.
        """
        if self.model.get("output") != "score":
            raise RuntimeFailure("this model makes no scores of a query and documents; use a bundle of a reranker")
        made: list[float] = []
        for begin in range(0, len(pairs), SOME):
            made += session.embed(pairs[begin : begin + SOME]).scores.tolist()
        return made if raw else as_scores(made, self.pooling)


def shortened(vectors: F32, dimensions: int | None, normalized: bool) -> F32:
    """The first dimensions of vectors f32 [texts, width]; of normalized ones, what is left is normalized too."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    kept = vectors[:, :dimensions].copy()
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12) if normalized else kept


def as_scores(made: Sequence[float], pooling: Json) -> list[float]:
    """Scores as the model's authors mean them: what its head gives, or the sigmoid of that."""
    return [_sigmoid(x) for x in made] if pooling.get("sigmoid") else list(made)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def rank(scores: Sequence[float], top: int | None = None) -> list[Ranked]:
    """Documents, best first; of equal ones those that came first."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [Ranked(i, scores[i]) for i in order[:top]]


def tell_cuts(cuts: Sequence[Cut], tell: Callable[[str], None] | None) -> None:
    """One line about texts that were cut, if there are."""
    short = [cut for cut in cuts if cut.cut]
    if short and tell is not None:
        most = max(cut.length for cut in short)
        count = "1 text was" if len(short) == 1 else f"{len(short)} texts were"
        tell(
            f"{count} cut to {max(len(cut.ids) for cut in short)} tokens, as more is not read of a text; "
            f"the longest has {most}: split it into parts"
        )
