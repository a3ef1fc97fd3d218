"""An exported folder, opened by onnxruntime-genai with its own tokenizer, reads and writes what `edgekit run` does."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Native

import edgekit
from edgekit.conversion import convert
from edgekit.converters.base import export
from edgekit.converters.onnx.tokenizer import write_tokenizer_config
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.values import Sampling
from tests.conftest import ROOT
from tests.test_tokenizer import CLASSES, llama, template

PROMPTS = ["Once upon a time", "Lily and Ben", "She said: what a nice day!"]
WORDS = ["time", "a", "Once"]  # the small tokenizers merge across spaces, which onnxruntime-genai's never does
COUNT = 32
GENERATE = """
import json, sys, onnxruntime_genai as og
folder, prompts, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
tokenizer.update_options(**json.load(open(folder + "/edgekit.json"))["tokenizer_options"])
for prompt in prompts:
    ids = tokenizer.encode(prompt)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + count, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    print(json.dumps([int(i) for i in generator.get_sequence(0)]))
"""
ENCODE = """
import json, sys, onnxruntime_genai as og
for folder in json.loads(sys.argv[1]):
    tokenizer = og.Tokenizer(folder)
    tokenizer.update_options(**json.load(open(folder + "/options.json")))
    print(json.dumps([[int(i) for i in tokenizer.encode(p)] for p in json.loads(sys.argv[2])]))
"""


def printed(*command: str) -> list[Any]:
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("source", ["demo", "stories260K"])
def test_its_own_tokenizer_gives_the_native_text(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    checkpoint = ROOT / "examples" / "demo_model" / "checkpoint"
    if source != "demo":
        checkpoint = request.getfixturevalue("stories")
    bundle = convert(checkpoint, tmp_path / "bundle", "f32").path
    folder = export(bundle, "onnx").path
    found = printed(GENERATE, str(folder), json.dumps(PROMPTS), str(COUNT))
    with edgekit.load(bundle) as model:
        for prompt, theirs in zip(PROMPTS, found, strict=True):
            ids = model.tokenizer.encode(prompt)
            text = [p.token for p in model.generate(prompt, COUNT, Sampling(temperature=0)) if p.token >= 0]
            assert theirs[: len(ids)] == ids
            assert theirs[len(ids) :][: len(text)] == text


@pytest.mark.parametrize(("make", "name", "bos", "eos"), CLASSES, ids=[c[1] for c in CLASSES])
def test_begin_and_end_of_text_are_the_post_processors(
    make: Callable[[], Native], name: str, bos: str, eos: str, tmp_path: Path
) -> None:
    folders = []
    kinds = ["none", "bos", *(["both"] if name == "GPT2Tokenizer" else [])]  # with bytes to fall back to, never an EOS
    for number, (processor, flag) in enumerate(itertools.product(kinds, [None, True, False])):
        folder = tmp_path / str(number)
        folder.mkdir()
        native = make()
        if processor != "none":
            native.post_processor = template(native, bos, eos if processor == "both" else None)
        native.save(str(folder / "tokenizer.json"))
        config = {"tokenizer_class": name, "bos_token": bos, "eos_token": eos}
        config |= {} if flag is None else {"add_bos_token": flag, "add_eos_token": flag}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "genai_config.json").write_text(GENAI)
        (folder / "options.json").write_text(json.dumps(write_tokenizer_config(folder)))
        folders.append(folder)
    found = printed(ENCODE, json.dumps([str(f) for f in folders]), json.dumps(WORDS))
    assert found == [[Tokenizer(f).encode(p) for p in WORDS] for f in folders]


GENAI = json.dumps(
    {
        "model": {
            "type": "llama", "vocab_size": 512, "context_length": 64, "bos_token_id": 1, "eos_token_id": 2,
            "pad_token_id": 2, "decoder": {"filename": "model.onnx"},
        }
    }
)  # fmt: skip


def test_folders_without_config_or_with_a_list_of_templates_open(tmp_path: Path) -> None:
    bare, listed = tmp_path / "bare", tmp_path / "listed"
    for folder in (bare, listed):
        folder.mkdir()
        native = llama()
        native.post_processor = template(native, "<s>", None)
        native.save(str(folder / "tokenizer.json"))
        (folder / "genai_config.json").write_text(GENAI)
    named = [{"name": "default", "template": "x"}, {"name": "rag", "template": "y"}]
    (listed / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "chat_template": named})
    )
    for folder in (bare, listed):
        (folder / "options.json").write_text(json.dumps(write_tokenizer_config(folder)))
    found = printed(ENCODE, json.dumps([str(bare), str(listed)]), json.dumps(WORDS))
    assert found == [[Tokenizer(f).encode(p) for p in WORDS] for f in (bare, listed)]


def test_more_than_one_token_before_a_text_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native = llama()
    native.post_processor = template(native, "<s>", "</s>")
    native.save(str(tmp_path / "tokenizer.json"))
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["post_processor"]["single"].insert(0, data["post_processor"]["single"][0])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert write_tokenizer_config(tmp_path) == {"add_special_tokens": "false"}
    assert "edgekit: warning: the tokenizer puts [1, 1] and [2] around a text" in capsys.readouterr().err
