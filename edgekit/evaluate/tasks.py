"""Multiple choice tasks on local files, scored as lm-evaluation-harness scores them, without examples in the prompt.

Each file is the data set's own, as JSON lines. A task says how one of its lines becomes contexts and continuations; the
forms are those of lm-evaluation-harness 0.4 (EleutherAI, https://github.com/EleutherAI/lm-evaluation-harness).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ConvertError
from edgekit.evaluate.likelihood import Judge

Line = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One line of a task.

    Attributes:
        pairs: context and continuation of each choice.
        gold: the choice that is right.
        lengths: characters of each choice, by which its likelihood is divided for `accuracy_norm`.
    """

    pairs: tuple[tuple[str, str], ...]
    gold: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class TaskResult:
    """What a model reached.

    Attributes:
        task: its name.
        questions: how many there were.
        accuracy: share of questions whose likeliest choice is right.
        accuracy_norm: the same by likelihood per character.
        stderr: standard error of `accuracy`.
    """

    task: str
    questions: int
    accuracy: float
    accuracy_norm: float
    stderr: float


def _choices(context: str, choices: Sequence[str], gold: int) -> Question:
    return Question(tuple((context, f" {c}") for c in choices), gold, tuple(len(c) for c in choices))


def _arc(line: Line) -> Question:
    choices = line["choices"]
    context = f"Question: {line['question']}\nAnswer:"
    return _choices(context, choices["text"], choices["label"].index(line["answerKey"]))


def _piqa(line: Line) -> Question:
    return _choices(f"Question: {line['goal']}\nAnswer:", [line["sol1"], line["sol2"]], int(line["label"]))


def _winogrande(line: Line) -> Question:
    """The options end two contexts, and what follows them is judged after each."""
    before, _, after = line["sentence"].partition("_")
    after = after.strip()
    pairs = tuple((before + line[option], f" {after}") for option in ("option1", "option2"))
    return Question(pairs, {"1": 0, "2": 1}[line["answer"]], (len(after), len(after)))


def _hellaswag(line: Line) -> Question:
    context = _plain(f"{line['activity_label']}: {line['ctx_a']} {line['ctx_b'].capitalize()}")
    return _choices(context, [_plain(ending) for ending in line["endings"]], int(line["label"]))


def _plain(text: str) -> str:
    """Text without the marks of the pages that it was taken from."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


TASKS: dict[str, Callable[[Line], Question]] = {
    "arc_challenge": _arc,
    "arc_easy": _arc,
    "hellaswag": _hellaswag,
    "piqa": _piqa,
    "winogrande": _winogrande,
}


def read_task(name: str, folder: Path, limit: int | None = None) -> list[Question]:
    """The questions of a task, from `folder`/NAME.jsonl.

    Args:
        name: of TASKS.
        folder: of the data sets.
        limit: the first so many.

    Raises:
        ConvertError: no such task or file, or a line that is not one of the task's.
    """
    if name not in TASKS:
        raise ConvertError(f"no task '{name}'; there are {', '.join(TASKS)}")
    path = folder / f"{name}.jsonl"
    found: list[Question] = []
    for number, text in _lines(path, name):
        if limit is not None and len(found) == limit:
            break
        try:
            question = TASKS[name](json.loads(text))
            known = 0 <= question.gold < len(question.pairs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConvertError(f"{path}: line {number} is not one of {name}: {error!r}") from error
        if not known or not all(lengths > 0 for lengths in question.lengths):
            raise ConvertError(f"{path}: line {number} of {name} has no right answer, or an empty choice")
        found.append(question)
    if not found:
        raise ConvertError(f"{path}: has no lines")
    return found


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text
    except OSError as error:
        raise ConvertError(
            f"{path}: {error.strerror}; put the data set's lines there, as JSON, to evaluate {name}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConvertError(f"{path}: is not UTF-8 text") from error


def run_task(
    judge: Judge, name: str, questions: Sequence[Question], progress: Callable[[int, int], None]
) -> TaskResult:
    """Answers questions by the likelihood of their choices.

    Args:
        judge: the model.
        name: of the task.
        questions: its lines.
        progress: called with (questions answered, of all).

    Raises:
        RuntimeFailure: a choice is longer than the model's context.
    """
    right = right_norm = 0
    for number, question in enumerate(questions, 1):
        nats = [judge.judge(*judge.encode(*pair)).nats for pair in question.pairs]
        norm = [n / length for n, length in zip(nats, question.lengths, strict=True)]
        right += nats.index(max(nats)) == question.gold
        right_norm += norm.index(max(norm)) == question.gold
        progress(number, len(questions))
    count = len(questions)
    accuracy = right / count
    stderr = math.sqrt(accuracy * (1 - accuracy) / (count - 1)) if count > 1 else math.nan
    return TaskResult(name, count, accuracy, right_norm / count, stderr)
