"""Multiple choice tasks, against likelihoods that transformers computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.evaluate.likelihood import Judge
from edgekit.evaluate.tasks import read_task
from edgekit.generate.loop import TextModel
from edgekit.runtime.values import Options
from tests.conftest import DEMO

LINES: dict[str, list[dict[str, Any]]] = {
    "arc_easy": [
        {"question": "What do dogs do?", "choices": {"text": ["bark", "fly", "read"], "label": ["A", "B", "C"]},
         "answerKey": "A"},
        {"question": "What is a cat?", "choices": {"text": ["a house", "an animal"], "label": ["1", "2"]},
         "answerKey": "2"},
    ],
    "piqa": [{"goal": "Drink water", "sol1": "Use a cup.", "sol2": "Use a big red ball.", "label": 0}],
    "winogrande": [
        {"sentence": "Tom gave Ben a ball because _ was kind.", "option1": "Tom", "option2": "Ben", "answer": "1"}
    ],
    "hellaswag": [
        {"activity_label": "Playing", "ctx_a": "A boy has a ball.", "ctx_b": "he",
         "endings": ["kicks the ball. [step] Then he runs.", "eats the sun."], "label": "0"}
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    for name, lines in LINES.items():
        (made / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("demo") / "demo", "f32").path


def expected(pairs: tuple[tuple[str, str], ...]) -> list[float]:
    """Log likelihoods by transformers, with BOS as its tokenizer adds it."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(DEMO),
        AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32),
    )
    out = []
    for context, continuation in pairs:
        begin = tokenizer(context)["input_ids"]
        whole = torch.tensor([tokenizer(context + continuation)["input_ids"]])
        with torch.no_grad():
            logs = torch.log_softmax(model(whole).logits[0].double(), -1)
        out.append(sum(float(logs[i - 1, whole[0, i]]) for i in range(len(begin), whole.shape[1])))
    return out


@pytest.mark.parametrize("name", LINES)
def test_choices_are_as_likely_as_in_transformers(name: str, folder: Path, bundle: Path) -> None:
    with TextModel(bundle, Options(activations="f32", cache_type="f32")) as model:
        judge = Judge(model)
        for question in read_task(name, folder):
            got = [judge.judge(*judge.encode(*pair)).nats for pair in question.pairs]
            assert got == pytest.approx(expected(question.pairs), abs=1e-3)  # f32 over some twenty tokens


def test_prompts_are_those_of_the_harness(folder: Path) -> None:
    arc = read_task("arc_easy", folder)[0]
    assert arc.pairs[1] == ("Question: What do dogs do?\nAnswer:", " fly")
    assert (arc.gold, arc.lengths) == (0, (4, 3, 4))
    hellaswag = read_task("hellaswag", folder)[0]
    assert hellaswag.pairs[0] == ("Playing: A boy has a ball. He", " kicks the ball. Then he runs.")
    winogrande = read_task("winogrande", folder)[0]
    assert winogrande.pairs[1] == ("Tom gave Ben a ball because Ben", " was kind.")


def test_order_and_shared_beginnings_change_nothing(folder: Path, bundle: Path) -> None:
    pairs = [pair for question in read_task("arc_easy", folder) for pair in question.pairs]
    with TextModel(bundle, Options(activations="f32", cache_type="f32")) as model:
        one_by_one = [Judge(model).judge(*Judge(model).encode(*pair)).nats for pair in pairs]
        judge = Judge(model)
        together = [judge.judge(*judge.encode(*pair)).nats for pair in reversed(pairs)]
        long = judge.judge([5] * 2000, [6, 7])  # the last tokens that fit
        short = Judge(model).judge([5] * (model.plan.context - 1), [6, 7])
    assert together[::-1] == pytest.approx(one_by_one, abs=1e-4)
    assert long.nats == pytest.approx(short.nats, abs=1e-3)


def test_the_command_answers_within_a_budget(folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", str(bundle), "--tasks", "arc_easy,piqa", "--task-dir", str(folder), "--ram", "12M"]
    assert main([*arguments, "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    assert [(task["task"], task["questions"]) for task in tasks] == [("arc_easy", 2), ("piqa", 1)]
    assert main([*arguments, "--limit", "1"]) == 0
    assert "arc_easy" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "give --text FILE or --tasks NAMES"),
        (["--tasks", "chess"], "no task 'chess'; there are arc_challenge"),
        (["--tasks", "arc_challenge"], "arc_challenge.jsonl"),
        (["--tasks", "arc_easy", "--tokens", "9"], "--tokens: of --text only"),
        (["--tasks", ","], "name at least one task"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], line: str, folder: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--task-dir", str(folder)] if arguments else []
    assert main(["eval", str(bundle), *arguments, *more]) == 1
    out, err = capsys.readouterr()
    assert line in err
    assert (out, err.strip().count("\n")) == ("", 0)


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        '{"goal": "a"}',
        '{"goal": "a", "sol1": "", "sol2": "b", "label": 1}',
        '{"goal": "a", "sol1": "c", "sol2": "b", "label": 7}',
    ],
)
def test_lines_of_another_form_are_named(
    text: str, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "piqa.jsonl").write_text(text + "\n")
    assert main(["eval", str(bundle), "--tasks", "piqa", "--task-dir", str(tmp_path)]) == 1
    assert "piqa.jsonl: line 1" in capsys.readouterr().err
