"""edgekit embed and edgekit rerank, and what other commands say of such models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit.cli.main import main

TEXTS = ["a cat", "the dog sat on the mat"]


def test_embed_prints_what_python_gives(embedder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with edgekit.load(embedder) as model:
        want = model.embed(TEXTS)
    assert main(["embed", str(embedder), *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    got = np.array([[float(x) for x in line.split()] for line in lines])
    assert np.allclose(got, want, atol=1e-5)
    assert main(["embed", str(embedder), *TEXTS, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert np.array_equal(np.array(table["embeddings"], dtype=np.float32), want)
    assert (table["dimensions"], table["tokens"]) == (64, 4 + 8)


def test_texts_come_from_a_file_too(embedder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts").write_text("a cat\n\nthe dog sat on the mat\n")
    assert main(["embed", str(embedder), "--file", str(tmp_path / "texts"), "--no-normalize", "--dimensions", "3"]) == 0
    assert [len(line.split()) for line in capsys.readouterr().out.splitlines()] == [3, 3]


def test_rerank_prints_the_best_first(reranker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with edgekit.load(reranker) as model:
        want = model.rerank("a cat", [*TEXTS, "w9"])
    assert main(["rerank", str(reranker), "a cat", *TEXTS, "w9", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [(r["index"], r["score"]) for r in table["results"]] == [(r.index, r.score) for r in want]
    assert main(["rerank", str(reranker), "a cat", *TEXTS, "w9", "--top", "1"]) == 0
    assert capsys.readouterr().out == f"{want[0].score:.6f}  {[*TEXTS, 'w9'][want[0].index]}\n"


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["run", "-p", "a cat"], "use 'edgekit embed'"),
        (["eval", "--text", __file__], "use 'edgekit embed'"),
        (["embed", "a", "--prompt-name", "x"], "no prompt 'x'"),
        (["embed", "a", "--dimensions", "99"], "64 dimensions"),
        (["rerank", "a", "b"], "bundle of a reranker"),
        (["embed", "a", "--ram", "1K"], "needs at least"),
        (["embed", "a", "-c", "65"], "more than this model's 64"),
        (["embed", "a", "-c", "2"], "raise the context"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    command: list[str], reason: str, embedder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], str(embedder), *command[1:]]) != 0
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err
    assert said.err.count("\n") == 1


def test_inspect_shows_what_it_gives(embedder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(embedder)]) == 0
    text = capsys.readouterr().out
    assert "vectors, normalized, pooling mean, texts of at most 16 tokens, prompts query, ü 1" in text
    assert "attention 4/4 heads of 16, to both sides" in text
    assert main(["inspect", str(embedder.parent / "checkpoint")]) == 0
    assert "pooling mean" in capsys.readouterr().out
