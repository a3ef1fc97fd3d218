"""Many texts at a time within one program, and chats without a server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit.errors import BundleError, ContextFullError, EdgekitError, RuntimeFailure
from edgekit.runtime.values import Sampling
from tests.conftest import ROOT

GREEDY = Sampling(temperature=0)
PROMPTS = [f"Once upon a time there was a {name}" for name in ("cat", "dog", "little girl", "king", "bird", "boy")]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 30}},
    "required": ["age"],
    "additionalProperties": False,
}


def alone(bundle: Path) -> list[str]:
    with edgekit.load(bundle) as model:
        return ["".join(p.text for p in model.generate(prompt, 30, GREEDY)) for prompt in PROMPTS]


def test_texts_at_a_time_are_what_they_are_alone(plain: Path) -> None:
    async def write(model: edgekit.AsyncModel, prompt: str) -> str:
        return "".join([piece.text async for piece in model.generate(prompt, 30, GREEDY)])

    async def main() -> list[str]:
        async with edgekit.AsyncModel(plain, ram="8M", sessions=4) as model:
            return list(await asyncio.gather(*(write(model, prompt) for prompt in PROMPTS)))

    assert asyncio.run(main()) == alone(plain)


def test_a_text_that_is_left_frees_its_session(plain: Path) -> None:
    async def main() -> str:
        async with edgekit.AsyncModel(plain, context=300, sessions=1) as model:
            endless = model.generate("A", 100_000, GREEDY, ignore_eos=True)
            assert (await anext(endless)).token >= 0
            await endless.aclose()  # type: ignore[attr-defined]
            return "".join([p.text async for p in model.generate(PROMPTS[0], 30, GREEDY)])

    assert asyncio.run(main()) == alone(plain)[0]


def test_errors_reach_the_one_who_iterates(plain: Path) -> None:
    async def main() -> None:
        async with edgekit.AsyncModel(plain, context=32) as model:
            with pytest.raises(ContextFullError, match="context of 32"):
                model.generate(list(range(3, 60)))
            with pytest.raises(EdgekitError, match="outside the vocabulary"):
                [p async for p in model.generate([10_000_000])]
            with pytest.raises(RuntimeFailure, match="empty"):
                model.generate([])

    asyncio.run(main())
    with pytest.raises(BundleError):
        edgekit.AsyncModel(plain / "nothing")


def test_chats_follow_a_schema_with_and_without_an_event_loop(demo: Path) -> None:
    messages = [{"role": "user", "content": "Describe a cat."}]

    async def main() -> str:
        async with edgekit.AsyncModel(demo, sessions=2) as model:
            return "".join([p.text async for p in model.chat(messages, 40, GREEDY, schema=SCHEMA)])

    with edgekit.load(demo) as model:
        answer = "".join(p.text for p in model.chat(messages, 40, GREEDY, schema=SCHEMA))
        again = "".join(p.text for p in model.chat(messages, 40, GREEDY, schema=SCHEMA))
        tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
        assert "".join(p.text for p in model.chat(messages, 5, GREEDY, tools=tools))
        with pytest.raises(BundleError):
            model.chat([])
    assert 0 <= json.loads(answer)["age"] <= 30
    assert asyncio.run(main()) == answer == again


def test_a_chat_becomes_a_message_whose_calls_can_be_answered(demo: Path) -> None:
    """With a tool that must be called; the message and the tool's result go back into the conversation."""
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    place = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": {**place, "additionalProperties": False}}}
    ]

    async def main() -> dict[str, Any]:
        async with edgekit.AsyncModel(demo) as model:
            return await model.chat(messages, 60, GREEDY, tools=tools, tool_choice="required").message()

    with edgekit.load(demo) as model:
        asked = model.chat(messages, 60, GREEDY, tools=tools, tool_choice="weather")
        text = "".join(piece.text for piece in asked)
        assert json.loads(text)["name"] == "weather"
        (call,) = asked.message["tool_calls"]
        assert asked.finish_reason == "tool_calls"
        assert asked.message["content"] is None
        assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
        answer = model.chat([*messages, asked.message, result], 8, GREEDY, tools=tools, tool_choice="none")
        assert answer.message["content"]
        assert not answer.calls
        with pytest.raises(RuntimeFailure, match="none of the tools"):
            model.chat(messages, tools=tools, tool_choice="look")
        with pytest.raises(RuntimeFailure, match="there are no tools"):
            model.chat(messages, tool_choice="required")
        with pytest.raises(RuntimeFailure, match="cannot both"):
            model.chat(messages, tools=tools, tool_choice="required", schema=SCHEMA)
        with pytest.raises(RuntimeFailure, match="a tool must be"):
            model.chat(messages, tools=[{"name": "look"}])
    assert asyncio.run(main())["tool_calls"][0]["function"] == call["function"]


def test_the_example_of_the_docs_runs(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "serve.md").read_text()
    (example,) = (e for e in re.findall(r"```python\n(.*?)```", page, re.S) if "AsyncModel" in e)
    exec(example.replace("model.edgekit", str(plain)), {})
    assert capsys.readouterr().out.startswith("[")
