"""The OpenAI client against a real server: texts, streams, structured output, tools, errors."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from edgekit.generate.dialogue import render_dialogue
from edgekit.generate.loop import TextModel
from edgekit.runtime.values import Options, Sampling
from tests.serve.conftest import RAM, Running

GREEDY = Sampling(temperature=0)
CAT: Any = [{"role": "user", "content": "Tell me about a cat."}]
SCHEMA: Any = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 30},
        "kind": {"enum": ["cat", "dog", "größe"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"enum": ["cat", "dog"]}},
            "required": ["word"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def model(demo: Path) -> TextModel:
    return TextModel(demo, Options(context=384))


def alone(model: TextModel, messages: Any, tokens: int) -> str:
    """The greedy answer of the Python interface."""
    prompt = render_dialogue(model.tokenizer, messages)
    return "".join(p.text for p in model.generate(prompt.ids, tokens, GREEDY))


def test_chat_gives_the_text_of_the_python_interface(server: Running, model: TextModel) -> None:
    done = server.client().chat.completions.create(model="demo", messages=CAT, max_completion_tokens=20, temperature=0)
    assert done.choices[0].message.content == alone(model, CAT, 20).lstrip()
    assert done.choices[0].finish_reason == "length"
    assert done.usage is not None
    assert done.usage.prompt_tokens == len(render_dialogue(model.tokenizer, CAT).ids)
    assert (done.usage.completion_tokens, done.usage.total_tokens - done.usage.prompt_tokens) == (20, 20)


def test_a_stream_is_the_whole_text_with_usage_at_its_end(server: Running, model: TextModel) -> None:
    stream = server.client().chat.completions.create(
        model="demo", messages=CAT, max_completion_tokens=20, temperature=0, stream=True,
        stream_options={"include_usage": True}, logprobs=True,
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == alone(model, CAT, 20).lstrip()
    entries = [e for c in chunks if c.choices and c.choices[0].logprobs for e in c.choices[0].logprobs.content or []]
    assert len(entries) == 20
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20


def test_a_prompt_that_begins_alike_is_not_evaluated_again(server: Running, model: TextModel) -> None:
    messages: Any = [{"role": "system", "content": "You are a cat that tells long stories."}, *CAT]
    texts = []
    for _ in range(2):
        done = server.client().chat.completions.create(model="demo", messages=messages, max_tokens=12, temperature=0)
        texts.append(done.choices[0].message.content)
    assert texts == [alone(model, messages, 12).lstrip()] * 2
    assert done.usage is not None
    assert done.usage.prompt_tokens_details is not None
    assert done.usage.prompt_tokens_details.cached_tokens == done.usage.prompt_tokens - 1


def test_completions(server: Running, model: TextModel) -> None:
    client = server.client()
    want = "".join(p.text for p in model.generate("Once upon a time", 16, GREEDY))
    done = client.completions.create(model="demo", prompt="Once upon a time", temperature=0)
    assert done.choices[0].text == want
    ids = model.tokenizer.encode("Once upon a time")
    done = client.completions.create(model="demo", prompt=ids, temperature=0, echo=True, logprobs=2)
    assert done.choices[0].text == model.tokenizer.decode(ids) + want
    found = done.choices[0].logprobs
    assert found is not None
    assert "".join(found.tokens or []) == want
    assert all(
        len(t) == 2 and max(t.values()) == p
        for t, p in zip(found.top_logprobs or [], found.token_logprobs or [], strict=True)
    )
    cut = want[4:8]
    done = client.completions.create(model="demo", prompt="Once upon a time", temperature=0, stop=[cut])
    assert done.choices[0].text == want[: want.index(cut)]
    assert done.choices[0].finish_reason == "stop"
    stream = client.completions.create(model="demo", prompt="Once upon a time", temperature=0, stream=True)
    assert "".join(c.choices[0].text for c in stream) == want


def test_seeds_choices_biases_and_penalties(server: Running, model: TextModel) -> None:
    client = server.client()
    several = client.completions.create(model="demo", prompt="The dog", n=3, seed=5, temperature=1.5)
    again = client.completions.create(model="demo", prompt="The dog", n=3, seed=5, temperature=1.5)
    texts = [c.text for c in several.choices]
    assert texts == [c.text for c in again.choices]
    assert len(set(texts)) == 3
    token = model.tokenizer.encode(" cat", special=False)[-1]
    biased = client.completions.create(model="demo", prompt="The dog", logit_bias={str(token): 100}, temperature=0)
    assert biased.choices[0].text == " cat" * 16
    bias = {str(token): 100}
    penal = client.completions.create(
        model="demo",
        prompt="The dog",
        logit_bias=bias,
        frequency_penalty=2,
        presence_penalty=2,
        max_tokens=200,
        temperature=0,
    )
    assert penal.choices[0].text.startswith(" cat" * 20)
    assert set(penal.choices[0].text.split()) != {"cat"}


def test_json_schema_is_followed(server: Running) -> None:
    client = server.client()
    for seed in range(8):
        done = client.chat.completions.create(
            model="demo", messages=CAT, seed=seed, temperature=1.2,
            response_format={"type": "json_schema", "json_schema": {"name": "animal", "schema": SCHEMA}},
        )  # fmt: skip
        found = json.loads(done.choices[0].message.content or "")
        assert set(found) == {"name", "age", "kind"}
        assert isinstance(found["name"], str)
        assert 0 <= found["age"] <= 30
        assert found["kind"] in ("cat", "dog", "größe")
        assert done.choices[0].finish_reason == "stop"
    any_object = client.chat.completions.create(
        model="demo", messages=CAT, temperature=0, response_format={"type": "json_object"}, max_tokens=200
    )
    text = any_object.choices[0].message.content or ""
    assert text.startswith("{")
    if any_object.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_tool_that_must_be_called_is(server: Running) -> None:
    client = server.client()
    for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
        done = client.chat.completions.create(model="demo", messages=CAT, tools=[TOOL], tool_choice=choice)  # type: ignore[call-overload]
        assert done.choices[0].finish_reason == "tool_calls"
        (call,) = done.choices[0].message.tool_calls
        assert call.function.name == "look_up"
        assert json.loads(call.function.arguments)["word"] in ("cat", "dog")
    stream = client.chat.completions.create(
        model="demo", messages=CAT, tools=[TOOL], tool_choice="required", stream=True
    )
    chunks = [c.choices[0] for c in stream]
    calls = [c for chunk in chunks for c in chunk.delta.tool_calls or []]
    assert [c.function.name for c in calls if c.function] == ["look_up"]
    assert chunks[-1].finish_reason == "tool_calls"
    called = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    messages: Any = [
        *CAT,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "1", "content": "A cat is an animal."},
    ]  # fmt: skip
    assert client.chat.completions.create(model="demo", messages=messages, tools=[TOOL], max_tokens=4).choices


def test_responses(server: Running, model: TextModel) -> None:
    client = server.client()
    want = alone(model, CAT, 10).lstrip()
    done = client.responses.create(model="demo", input="Tell me about a cat.", temperature=0, max_output_tokens=10)
    assert done.output_text == want
    assert done.status == "incomplete"
    events = list(client.responses.create(model="demo", input=CAT, temperature=0, max_output_tokens=10, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == want
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.incomplete"
    tool: Any = {"type": "function", **TOOL["function"]}
    called = client.responses.create(model="demo", input="Look!", tools=[tool], tool_choice="required")
    assert called.output[-1].type == "function_call"
    text: Any = {"format": {"type": "json_schema", "name": "animal", "schema": SCHEMA}}
    assert set(json.loads(client.responses.create(model="demo", input="A cat", text=text).output_text)) == set(
        SCHEMA["required"]
    )


def test_models_tokens_and_templates(server: Running, model: TextModel) -> None:
    assert [m.id for m in server.client().models.list()] == ["demo"]
    ids = model.tokenizer.encode("A cat.", special=False)
    assert server.post("/tokenize", {"content": "A cat."}) == (200, {"tokens": ids})
    assert server.post("/detokenize", {"tokens": ids}) == (200, {"content": model.tokenizer.decode(ids)})
    status, found = server.post("/apply-template", {"messages": CAT})
    assert (status, found["prompt"]) == (200, render_dialogue(model.tokenizer, CAT).text)


def test_sixteen_clients_get_the_texts_they_get_alone(server: Running, model: TextModel) -> None:
    prompts: list[Any] = [
        [{"role": "user", "content": f"A story of {n} birds and a {w}."}] for n, w in enumerate(["cat", "dog"] * 8)
    ]
    want = [alone(model, p, 24).lstrip() for p in prompts]

    def ask(messages: Any) -> str | None:
        done = server.client().chat.completions.create(model="demo", messages=messages, max_tokens=24, temperature=0)
        return done.choices[0].message.content

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, prompts)) == want
    assert 0 < server.metric("peak_memory_bytes") <= RAM
    assert server.metric("budget_bytes") <= RAM


BAD: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"messages": CAT, "temperature": -1}, "temperature"),
    ({"messages": CAT, "temperature": True}, "temperature"),
    ({"messages": CAT, "max_tokens": 0}, "max_tokens"),
    ({"messages": CAT, "n": 1000}, "n"),
    ({"messages": CAT, "stop": [1]}, "stop"),
    ({"messages": CAT, "logit_bias": {"99999": 1}}, "logit_bias"),
    ({"messages": CAT, "logit_bias": {"5": 1e9}}, "logit_bias"),
    ({"messages": CAT, "top_logprobs": 21}, "top_logprobs"),
    ({"messages": CAT, "stream": "yes"}, "stream"),
    ({"messages": CAT, "tools": [{"type": "function"}]}, "tools[0]"),
    ({"messages": CAT, "tool_choice": "required"}, "tool_choice"),
    ({"messages": CAT, "response_format": {"type": "xml"}}, "response_format"),
    (
        {"messages": CAT, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strange"}}}},
        "response_format",
    ),
]


@pytest.mark.parametrize(("body", "param"), BAD, ids=[p for _, p in BAD])
def test_wrong_requests_are_named(server: Running, body: dict[str, Any], param: str) -> None:
    status, found = server.post("/v1/chat/completions", {"model": "demo", **body})
    assert status == 400
    assert found["error"]["param"] == param
    assert found["error"]["type"] == "invalid_request_error"
    assert "\n" not in found["error"]["message"]


def test_errors_are_those_of_the_client(server: Running) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError, match="there is demo"):
        client.chat.completions.create(model="../../etc/passwd", messages=CAT)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="word " * 500)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt=[99999999])


def test_embeddings_are_refused_with_the_reason(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="was not trained to embed") as caught:
        server.client().embeddings.create(model="demo", input="a cat")
    assert caught.value.code == "unsupported_model"
