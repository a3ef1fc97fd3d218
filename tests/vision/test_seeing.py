"""Pictures in, text out: prompts, logits and texts beside transformers, through Python and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import edgekit
from edgekit.bundle import manifest
from edgekit.cli.main import cli
from edgekit.generate.tokenizer import Tokenizer
from edgekit.pictures.prompt import SeeingPrompt, seeing_prompt
from edgekit.pictures.sight import Sight
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests import pictures
from tests.vision.conftest import Sighted

GREEDY = Sampling(temperature=0)


def want_of(sighted: Sighted, messages: list[dict[str, Any]], photos: list[Path]) -> tuple[list[int], np.ndarray, Any]:
    """Tokens and logits by transformers' own processor and model, and its inputs."""
    inputs = pictures.inputs_of(sighted.name, sighted.checkpoint, messages, photos)
    with torch.no_grad():
        logits = sighted.model(**inputs).logits[0].numpy()
    return inputs["input_ids"][0].tolist(), logits, inputs


def messages_about(photos: list[Path], text: str = "What is it?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*({"type": "image"} for _ in photos), {"type": "text", "text": text}]}]


def prompt_of(sighted: Sighted, messages: list[dict[str, Any]], photos: list[Path], ram: int | None) -> SeeingPrompt:
    sight = Sight(sighted.bundle, manifest.read(sighted.bundle).data["model"])
    tokenizer = Tokenizer(sighted.bundle / "tokenizer")
    seen = sight.look(photos, Options(), ram)
    return seeing_prompt(tokenizer.chat(messages), seen, tokenizer, sight.told, special=False)


def logits_of(session: Session, prompt: SeeingPrompt) -> np.ndarray:
    rows, at = [], 0
    for picture in prompt.pictures:
        if picture.begin > at:
            rows.append(session.logits(prompt.ids[at : picture.begin]))
        tokens = prompt.ids[picture.begin : picture.end]
        rows.append(session.embedding_logits(picture.rows, tokens, picture.both_ways))
        at = picture.end
    return np.concatenate([*rows, session.logits(prompt.ids[at:])])


@pytest.mark.parametrize("name", list(pictures.MAKERS))
@pytest.mark.parametrize("count", [1, 2])
def test_logits_are_those_of_transformers(name: str, count: int, sighted: Any, photos: list[Path]) -> None:
    made = sighted(name)
    messages = messages_about(photos[:count])
    ids, want, _ = want_of(made, messages, photos[:count])
    prompt = prompt_of(made, messages, photos[:count], None)
    assert list(prompt.ids) == ids
    with Session(made.bundle, Options(cache_type="f32", context=512, batch=5, least_batch=16)) as session:
        got = logits_of(session, prompt)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("name", ["idefics3", "gemma3", "lfm2_vl"])
def test_a_text_is_that_of_transformers_in_any_budget(name: str, sighted: Any, photos: list[Path]) -> None:
    made = sighted(name)
    content = [{"type": "image", "image": photos[0]}, {"type": "text", "text": "What is it?"}]
    _, _, inputs = want_of(made, messages_about(photos[:1]), photos[:1])
    with torch.no_grad():
        want = made.model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=None)
    want = want[0, inputs["input_ids"].shape[1] :].tolist()
    with edgekit.load(made.bundle, context=512, cache_type="f32", pictures=True) as model:
        least = model.plan.floor_bytes
    needs, _ = Sight(made.bundle, manifest.read(made.bundle).data["model"]).needs(Options())
    for ram in (None, least + needs + 300_000):
        with edgekit.load(made.bundle, ram, context=512, cache_type="f32", pictures=True) as model:
            request = model.chat([{"role": "user", "content": content}], 12, GREEDY)
            got = [piece.token for piece in request]
            assert got == want[: len(got)]
            assert len(got) == 12 or want[len(got)] in model.eos_token_ids
            assert ram is None or model.stats.peak_memory_bytes <= ram
            assert ram is None or model._sight is None or model._sight.last.peak_bytes <= ram


def test_a_conversation_goes_on_without_reading_its_picture_again(sighted: Any, photos: list[Path]) -> None:
    made = sighted("idefics3")
    with edgekit.load(made.bundle, context=512) as model:

        def answer(photo: Path, *texts: str) -> Any:
            first = [{"type": "image", "image": photo}, {"type": "text", "text": texts[0]}]
            messages: list[dict[str, Any]] = [{"role": "user", "content": first}]
            messages += [{"role": "user", "content": [{"type": "text", "text": text}]} for text in texts[1:]]
            request = model.chat(messages, 6, GREEDY)
            return [piece.token for piece in request], request.cached_tokens

        first, cached = answer(photos[0], "What?")
        assert cached == 0
        again, cached = answer(photos[0], "What?")
        assert again == first
        whole = model.session.position - 5  # six tokens were chosen, of which the last was not appended
        assert cached == whole - 1
        _, cached = answer(photos[0], "What?", "And?")
        assert cached > whole - 20
        other, cached = answer(photos[1], "What?")
        assert cached < 10
        assert other != first
        assert answer(photos[0], "What?")[0] == first


@pytest.mark.parametrize(("name", "tiles"), [("idefics3", 10), ("gemma3", 2), ("lfm2_vl", 8)])
def test_run_takes_pictures(name: str, tiles: int, sighted: Any, photos: list[Path]) -> None:
    made = sighted(name)
    _, _, inputs = want_of(made, messages_about(photos), photos)
    with torch.no_grad():
        want = made.model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)
    want = want[0, inputs["input_ids"].shape[1] :].tolist()
    needs, _ = Sight(made.bundle, manifest.read(made.bundle).data["model"]).needs(Options())
    for ram in (None, max(needs, 900_000)):
        arguments = ["run", str(made.bundle), "--image", str(photos[0]), "--image", str(photos[1]), "--chat"]
        arguments += ["-p", "What is it?", "-n", "8", "--temp", "0", "--ignore-eos", "--cache-type", "f32", "--json"]
        done = CliRunner().invoke(cli, arguments + ([] if ram is None else ["--ram", str(ram)]))
        assert done.exit_code == 0, done.output
        figures = json.loads(done.stdout)
        assert figures["token_ids"] == want
        assert figures["prompt_tokens"] == inputs["input_ids"].shape[1]
        assert (figures["pictures"], figures["picture_tiles"]) == (2, tiles)
        assert ram is None or figures["peak_memory_bytes"] <= ram


def test_without_a_chat_template_pictures_come_first(sighted: Any, photos: list[Path]) -> None:
    made = sighted("idefics3")
    texts = []
    for prompt in ("What is it?", "<image>What is it?"):
        arguments = ["run", str(made.bundle), "--image", str(photos[0]), "-p", prompt, "-n", "4", "--temp", "0"]
        done = CliRunner().invoke(cli, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        texts.append(json.loads(done.stdout)["token_ids"])
    assert texts[0] == texts[1]
