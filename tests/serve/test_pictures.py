"""Pictures in requests: data: URLs, as OpenAI's client sends them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import edgekit
from edgekit.bundle import manifest
from edgekit.conversion import convert
from edgekit.pictures.sight import Sight
from edgekit.runtime.values import Options, Sampling
from tests import pictures
from tests.serve.conftest import Running

GREEDY = Sampling(temperature=0, repeat_penalty=1.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing")
    pictures.make("idefics3", folder / "checkpoint")
    return convert(folder / "checkpoint", folder / "seeing", "f32").path


@pytest.fixture(scope="module")
def ram(bundle: Path) -> int:
    """A budget that holds the decoder's least and the encoder's, and a little more."""
    needs, _ = Sight(bundle, manifest.read(bundle).data["model"]).needs(Options())
    with edgekit.load(bundle, context=384) as model:
        return needs + model.plan.floor_bytes + 400_000


@pytest.fixture(scope="module")
def server(bundle: Path, ram: int) -> Iterator[Running]:
    running = Running(bundle, "--ram", ram, "--ctx-size", 384, "--parallel", 2)
    yield running
    running.stop()


def content_of(width: int, height: int, seed: int = 0) -> bytes:
    file = io.BytesIO()
    pictures.picture(width, height, seed).save(file, "PNG")
    return file.getvalue()


def part_of(content: bytes) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def ask(server: Running, *parts: dict[str, Any]) -> Any:
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    message: Any = {"role": "user", "content": [*parts, {"type": "text", "text": "What is it?"}]}
    return client.chat.completions.create(
        model="seeing", messages=[message], temperature=0, max_tokens=8, extra_body={"repeat_penalty": 1.0}
    )


def test_answers_are_those_of_the_model(bundle: Path, server: Running) -> None:
    contents = [content_of(90, 60), content_of(40, 70, 1)]
    with edgekit.load(bundle, context=384) as model:
        wants = []
        for shown in (contents[:1], contents[1:], contents):
            message = {"role": "user", "content": [*({"type": "image", "image": c} for c in shown)]}
            message["content"] += [{"type": "text", "text": "What is it?"}]
            wants.append("".join(p.text for p in model.chat([message], 8, GREEDY)))
    assert len(set(wants)) > 1
    for _ in range(2):
        for shown, want in zip((contents[:1], contents[1:], contents), wants, strict=True):
            answer = ask(server, *(part_of(c) for c in shown))
            assert answer.choices[0].message.content == want
            assert answer.usage.prompt_tokens > 50
    again = ask(server, *(part_of(c) for c in contents))
    assert again.usage.prompt_tokens_details.cached_tokens == again.usage.prompt_tokens - 1


def test_memory_stays_within_the_budget(server: Running, ram: int) -> None:
    ask(server, part_of(content_of(200, 200, 7)))
    assert 0 < server.metric("peak_memory_bytes") <= ram


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/cat.png"}},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!"}},
        {"type": "image_url", "image_url": {"url": "data:image/png,abc"}},
        {"type": "image_url", "image_url": 7},
        {"type": "image_url"},
        {"type": "input_audio"},
        part_of(b""),
        part_of(b"not a picture"),
        part_of(content_of(60, 60)[:200]),
    ],
)
def test_what_is_no_picture_is_a_bad_request(part: dict[str, Any], server: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(server, part)
    assert "\n" not in caught.value.message
    assert ask(server).choices[0].message.content is not None


def test_a_model_that_sees_nothing_says_so(demo: Path) -> None:
    running = Running(demo)
    try:
        message = {"role": "user", "content": [part_of(content_of(8, 8))]}
        status, answer = running.post("/v1/chat/completions", {"messages": [message]})
    finally:
        running.stop()
    assert status == 400
    assert "text only" in answer["error"]["message"]
