"""Perplexity and bits per byte, document by document."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgekit.generate.loop import TextModel


@dataclass(frozen=True)
class Perplexity:
    """Over all predicted tokens of all documents."""

    perplexity: float
    bits_per_byte: float
    tokens: int


def perplexity(model: TextModel, documents: Iterable[str]) -> Perplexity:
    """Evaluates each document on its own, BOS in front if the model has one, cut at the context.

    Bits per byte count the bytes of what was predicted, so that tokenizers can be compared.
    """
    bos = model.manifest["model"].get("bos_token_id")
    nats, count, size = 0.0, 0, 0
    for text in documents:
        ids = model.tokenizer.encode(text)
        if bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        ids = ids[: model.plan.context]
        if len(ids) < 2:
            continue
        logits = model.logits(ids)[:-1]
        chosen = logits[np.arange(len(ids) - 1), ids[1:]].astype(np.float64)
        top = logits.max(axis=1)
        total = np.exp(logits - top[:, None]).sum(axis=1, dtype=np.float64)
        nats += float((top + np.log(total) - chosen).sum())
        count += len(ids) - 1
        size += len(model.tokenizer.decode(ids[1:]).encode())
    return Perplexity(math.exp(nats / count), nats / math.log(2) / size, count)
