"""Encoders as ONNX graphs, on batches with padding; every other export refuses them by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.converters.base import Choices, export
from edgekit.converters.check import check
from edgekit.converters.kinds import KINDS
from edgekit.errors import ConvertError
from edgekit.runtime.embedding import TokenText
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from tests import encoders

RNG = np.random.default_rng(7)
TEXTS = [tuple(RNG.integers(3, 99, n).tolist()) for n in (31, 1, 17)]


def batch(graph: ort.InferenceSession) -> dict[str, np.ndarray]:
    """The texts, padded on the right, as the graph takes them."""
    shape = (len(TEXTS), max(map(len, TEXTS)))
    feeds = {"input_ids": np.zeros(shape, np.int64), "attention_mask": np.zeros(shape, np.int64)}
    if any(i.name == "token_type_ids" for i in graph.get_inputs()):
        feeds["token_type_ids"] = np.zeros(shape, np.int64)
    for row, ids in enumerate(TEXTS):
        feeds["input_ids"][row, : len(ids)] = ids
        feeds["attention_mask"][row, : len(ids)] = 1
    return feeds


def native(path: Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    with Session(path, Options(activations="f32")) as session:
        found = session.embed([TokenText(ids) for ids in TEXTS], states=True)
    return found.states, found.vectors, found.scores


@pytest.mark.parametrize("recipe", ["f32", "q8", "scaled4"])
@pytest.mark.parametrize("name", sorted(encoders.MAKERS))
def test_the_exact_graph_computes_what_the_bundle_computes(name: str, recipe: str, tmp_path: Path) -> None:
    encoders.make(name, tmp_path / "checkpoint")
    encoders.add_modules(tmp_path / "checkpoint", ["cls", "mean", "max", "lasttoken"][len(name) % 4])
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", recipe).path
    made = export(path, "onnx-exact", Choices())
    graph = ort.InferenceSession(made.path / "model.onnx")
    states, vectors = graph.run(["last_hidden_state", "sentence_embedding"], batch(graph))
    want, want_vectors, _ = native(path)
    for row, one in enumerate(want):
        assert np.abs(states[row, : len(one)] - one).max() <= 2e-4
    assert np.abs(vectors - want_vectors).max() <= 2e-4
    assert [v.ok for v in check(path, tokens=20)] == [True]


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert_biased", "distilbert"])
def test_rerankers_give_scores(name: str, tmp_path: Path) -> None:
    encoders.make(name, tmp_path / "checkpoint", scores=True)
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", "f32").path
    graph = ort.InferenceSession(export(path, "onnx", Choices()).path / "model.onnx")
    (scores,) = graph.run(["logits"], batch(graph))
    assert np.abs(scores[:, 0] - native(path)[2]).max() <= 1e-4


def test_the_plain_graph_is_near(tmp_path: Path) -> None:
    encoders.make("bert", tmp_path / "checkpoint")
    path = convert(tmp_path / "checkpoint", tmp_path / "bundle", "q8").path
    graph = ort.InferenceSession(export(path, "onnx", Choices()).path / "model.onnx")
    (vectors,) = graph.run(["sentence_embedding"], batch(graph))
    want = native(path)[1]
    cosine = (vectors * want).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(want, axis=1)
    assert cosine.min() >= 0.999


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"onnx", "onnx-exact"}))
def test_other_exports_refuse_encoders_by_name(kind: str, embedder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConvertError, match=f"^{kind}: takes no such model"):
        export(embedder, kind, Choices())
    assert main(["export", str(embedder), "--to", kind]) != 0
    assert capsys.readouterr().err.count("\n") == 1
