"""Calibration text that the model writes itself, for users who have none.

What a model writes at temperature 1 is drawn from its own distribution, and so are the inputs that its matrices see
then (LLM-QAT, arXiv 2305.17888, makes its training text in this way).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgekit.arch.spec import Model
from edgekit.bundle.disk import write_file
from edgekit.bundle.layout import plan_layout
from edgekit.bundle.weights import BundleWeights
from edgekit.bundle.writer import Writer
from edgekit.calibrate.calibration import Calibration, Note
from edgekit.checkpoint import Checkpoint
from edgekit.errors import ConvertError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.jobs import Threads
from edgekit.recipe import load_recipe
from edgekit.runtime.model import plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling

RAM = 256 << 20  # of the runtime while it writes; weights beyond it are streamed
SHORTEST = 8  # tokens of a text that is kept
MOST = 64  # texts that end sooner, for each that is kept, before the model is given up


def with_samples(
    settings: Calibration, checkpoint: Checkpoint, model: Model, folder: Path, key: str, threads: int, note: Note
) -> Calibration:
    """A calibration whose text is written by the model: by an interrupted call with the same key, or now.

    Args:
        settings: the calibration, without text.
        checkpoint: the source.
        model: its architecture.
        folder: for the text, and for the plain bundle that writes it.
        key: changes when the model does.
        threads: tensors encoded at once.
        note: called with what is being done, and how far it is.

    Raises:
        ConvertError: the model writes nothing, or only texts of a few tokens.
    """
    if model.output != "logits":
        raise ConvertError("this model writes no text to learn from; give some with --calibration FILE")
    done = folder / f"{key}-{settings.tokens}.jsonl"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        plain = folder / "plain.edgekit"
        layout = plan_layout(model, load_recipe("f16"))
        Writer(checkpoint, model, layout, plain, {}, key).run(Threads(threads), lambda d, t: note("preparing", d, t))
        write_file(done, _written(plain, settings, model.max_context, note).encode())
        shutil.rmtree(plain)
    return dataclasses.replace(settings, text=(done,))


def _written(plain: Path, settings: Calibration, context: int, note: Note) -> str:
    """Texts by a plain bundle, one JSON object a line."""
    tokens, length = settings.tokens, min(settings.length, context)
    ram = max(2 * plan_bundle(plain, Options(context=length)).floor_bytes, RAM)
    tokenizer = Tokenizer(plain / "tokenizer")
    lines, written = [], 0
    ends = frozenset(BundleWeights(plain).data["model"].get("eos_token_ids", ()))
    with Session(plain, Options(ram=ram, context=length, select="all")) as session:
        for ids in _texts(session, tokenizer, ends, length):
            lines.append(json.dumps({"text": tokenizer.decode(ids)}) + "\n")
            written += len(ids)
            note("writing a text to learn from", min(written, tokens), tokens)
            if written >= tokens:
                break
    return "".join(lines)


def _texts(session: Session, tokenizer: Tokenizer, ends: frozenset[int], length: int) -> Iterator[list[int]]:
    """Texts without end, each as token ids; the same for the same model.

    Raises:
        ConvertError: all texts end after a few tokens.
    """
    rng = np.random.default_rng(0)
    begin = tokenizer.encode("")
    short = 0
    while short < MOST:
        first = begin or [int(rng.integers(session.vocab_size))]  # where no token begins a text, any may
        ids = _text(session, first, ends | set(begin), length, int(rng.integers(1 << 31)))
        short = short + 1 if len(ids) < SHORTEST else 0
        if short == 0:
            yield ids if begin else first + ids
    raise ConvertError("the model ends its texts after a few tokens, so it cannot write one to learn from")


def _text(session: Session, first: list[int], ends: frozenset[int], length: int, seed: int) -> list[int]:
    """What the model writes after the first tokens, drawn from its distribution."""
    session.reset()
    session.eval(first)
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed)
    ids: list[int] = []
    while len(first) + len(ids) < length:
        token = session.next(sampling)
        if token in ends:
            break
        ids.append(token)
    return ids
