"""Answers taken apart: reasoning, text and calls, whatever pieces they come in."""

from __future__ import annotations

import json

import pytest

from edgekit.generate.answer import Answer
from edgekit.generate.tool_calls import parse_calls

NAMES = ("look_up", "add")
ONE = [("look_up", {"word": "cat"})]
TWICE = '<tool_call>{"name": "look_up", "arguments": {"word": "cat"}}'  # its end is missing
FORMS = [
    ('<tool_call>\n{"name": "look_up", "arguments": {"word": "cat"}}\n</tool_call>', "", ONE),
    ('I look.\n<tool_call>{"name": "look_up", "arguments": {"word": "cat"}}</tool_call>', "I look.", ONE),
    ('<tool_call>{"name": "add", "arguments": {}}</tool_call>\n' + TWICE, "", [("add", {}), *ONE]),
    ('{"name": "look_up", "parameters": {"word": "cat"}}', "", ONE),
    ('<|python_tag|>{"name": "look_up", "parameters": {"word": "cat"}}', "", ONE),
    ('[TOOL_CALLS] [{"name": "look_up", "arguments": {"word": "cat"}}, {"name": "add"}]', "", [*ONE, ("add", {})]),
    ('[{"name": "look_up", "arguments": "{\\"word\\": \\"cat\\"}"}]', "", ONE),
    ('{"name": "look_up", "parameters": {"word": "cat"}}; {"name": "add", "parameters": {}}', "", [*ONE, ("add", {})]),
    # What only looks like a call stays text.
    ('{"name": "unknown", "parameters": {}}', None, []),
    ('{"name": "look_up", "parameters": 3}', None, []),
    ("<tool_call>look_up(cat)</tool_call>", None, []),
    ('{"answer": 42}', None, []),
    ("[1, 2", None, []),
    ("A plain answer with { braces }.", None, []),
    ("", None, []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "rest", "calls"), FORMS, ids=range(len(FORMS)))
def test_calls_are_found_in_the_forms_that_models_write(
    text: str, rest: str | None, calls: list[tuple[str, dict[str, object]]]
) -> None:
    left, found = parse_calls(text, NAMES)
    assert left == (text if rest is None else rest)
    assert [(c.name, json.loads(c.arguments)) for c in found] == calls
    assert len({c.id for c in found}) == len(found)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("text", "rest", "calls"), FORMS, ids=range(len(FORMS)))
def test_a_stream_shows_what_the_whole_has(
    text: str, rest: str | None, calls: list[tuple[str, dict[str, object]]], size: int
) -> None:
    answer = Answer(NAMES)
    shown = "".join(answer.push(text[i : i + size]).content for i in range(0, len(text), size))
    last, found = answer.end()
    assert (shown + last.content).strip() == (text if rest is None else rest)
    assert [(c.name, json.loads(c.arguments)) for c in found] == calls
    if calls:
        assert "tool_call" not in shown
        assert "{" not in shown


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "thinking", "reasoning", "content"),
    [
        ("<think>\nHm, a cat.\n</think>\n\nIt is a cat.", False, "Hm, a cat.\n", "It is a cat."),
        ("Hm.</think>Yes", True, "Hm.", "Yes"),
        ("<thinking is hard", False, "", "<thinking is hard"),
        ("No <think> here </think>", False, "", "No <think> here </think>"),
        ("<think>never ends", False, "never ends", ""),
        ("  <think></think>x", False, "", "x"),
    ],
)
def test_reasoning_stands_apart(text: str, thinking: bool, reasoning: str, content: str, size: int) -> None:
    answer = Answer(thinking=thinking)
    deltas = [answer.push(text[i : i + size]) for i in range(0, len(text), size)]
    deltas.append(answer.end()[0])
    assert "".join(d.reasoning for d in deltas) == answer.reasoning == reasoning
    assert "".join(d.content for d in deltas) == answer.content == content
