"""Perplexity and bits per byte, document by document."""

from __future__ import annotations

from collections.abc import Iterable

from edgekit.evaluate.comparison import Comparison, compare
from edgekit.generate.loop import TextModel


def perplexity(model: TextModel, documents: Iterable[str]) -> Comparison:
    """Evaluates each document on its own, BOS in front if the model has one, cut at the context.

    Bits per byte count the bytes of what was predicted, so that tokenizers can be compared.
    """
    bos = model.manifest["model"].get("bos_token_id")
    runs = []
    for text in documents:
        ids = list(model.tokenizer.encode(text))
        runs.append([bos, *ids] if bos is not None and ids[:1] != [bos] else ids)
    total = sum(len(ids) for ids in runs)
    return compare(
        model.session, None, runs, total, lambda ids: len(model.tokenizer.decode(list(ids)).encode()),
        lambda done, total: None,
    )  # fmt: skip
