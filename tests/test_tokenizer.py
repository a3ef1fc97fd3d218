"""Token ids and chat prompts are those of transformers' AutoTokenizer over the same files."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Native
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

import edgekit
from edgekit.errors import BundleError, EdgekitError
from edgekit.generate.tokenizer import Tokenizer
from tests.conftest import ROOT

TEXTS = ["Once upon a time, there was a little girl named Lily.", "She said: what a nice day!", "a b c d e f g 0 1 2 3"]
PROMPTS = ["Once upon a time", "a nice day, she said", " Lily", "<s>a</s>b", ""]
LLAMA, GEMMA, GPT2 = ("<unk>", "<s>", "</s>"), ("<unk>", "<bos>", "<eos>", "<pad>", "<mask>"), ("<|endoftext|>",)
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def trained(special: tuple[str, ...], parts: dict[str, Any], **options: Any) -> Native:
    """A small BPE tokenizer with the given normalizer, pre-tokenizer and decoder."""
    native = Native(models.BPE(**options))
    for name, part in parts.items():
        setattr(native, name, part)
    tokens = [*special, *(BYTES if options.get("byte_fallback") else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if special == GPT2 else []
    native.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=330, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False),
    )
    return native


def llama() -> Native:
    parts = {
        "pre_tokenizer": pre_tokenizers.Metaspace("▁", "first", split=False),
        "decoder": decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    }
    return trained(LLAMA, parts, byte_fallback=True, fuse_unk=True)


def gemma() -> Native:
    parts = {
        "normalizer": normalizers.Replace(" ", "▁"),
        "pre_tokenizer": pre_tokenizers.Split(" ", "merged_with_previous"),
        "decoder": decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
    }
    return trained(GEMMA, parts, byte_fallback=True, fuse_unk=True, unk_token="<unk>")


def gpt2() -> Native:
    return trained(
        GPT2,
        {"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False), "decoder": decoders.ByteLevel()},
        continuing_subword_prefix="",
        end_of_word_suffix="",
    )


CLASSES: list[tuple[Callable[[], Native], str, str, str]] = [
    (llama, "LlamaTokenizer", "<s>", "</s>"),
    (llama, "PreTrainedTokenizerFast", "<s>", "</s>"),
    (gemma, "GemmaTokenizer", "<bos>", "<eos>"),
    (gpt2, "GPT2Tokenizer", "<|endoftext|>", "<|endoftext|>"),
]


def template(native: Native, bos: str | None, eos: str | None) -> Any:
    tokens = [t for t in (bos, eos) if t is not None]
    single = " ".join(filter(None, [bos, "$A", eos]))
    return processors.TemplateProcessing(
        single=single, special_tokens=[(t, native.token_to_id(t)) for t in dict.fromkeys(tokens)]
    )


@pytest.mark.parametrize("processor", ["none", "bos", "bos and eos"])
@pytest.mark.parametrize(("make", "name", "bos", "eos"), CLASSES, ids=[c[1] for c in CLASSES])
def test_begin_and_end_of_text_are_those_of_transformers(
    make: Callable[[], Native], name: str, bos: str, eos: str, processor: str, tmp_path: Path
) -> None:
    native = make()
    if processor != "none":
        native.post_processor = template(native, bos, eos if processor == "bos and eos" else None)
    native.save(str(tmp_path / "tokenizer.json"))
    for add_bos, add_eos in itertools.product([None, True, False], repeat=2):
        config = {"tokenizer_class": name, "bos_token": bos, "eos_token": eos}
        config |= {k: v for k, v in (("add_bos_token", add_bos), ("add_eos_token", add_eos)) if v is not None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        theirs, ours = AutoTokenizer.from_pretrained(tmp_path), Tokenizer(tmp_path)
        for text in PROMPTS:
            assert ours.encode(text) == theirs.encode(text), (text, add_bos, add_eos)
            assert ours.encode(text, special=False) == theirs.encode(text, add_special_tokens=False)


def test_long_prompts_are_neither_cut_nor_padded(tmp_path: Path) -> None:
    native = llama()
    native.enable_truncation(4)
    native.enable_padding(length=64)
    native.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    ids = Tokenizer(tmp_path).encode(TEXTS[0])
    assert ids == AutoTokenizer.from_pretrained(tmp_path).encode(TEXTS[0])
    assert 4 < len(ids) < 64


@pytest.mark.parametrize("text", ["caf\udce9", "\ud800", "a \udcff b"])
def test_text_that_is_not_utf8_is_one_error(text: str, tmp_path: Path) -> None:
    llama().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(EdgekitError, match="not valid UTF-8") as caught:
        Tokenizer(tmp_path).encode(text)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a chat template."""
    made = tmp_path_factory.mktemp("tokenizer")
    chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    source = made / "checkpoint"
    source.mkdir()
    for file in (ROOT / "examples" / "demo_model" / "checkpoint").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    (source / "chat_template.jinja").write_text(chat_template)
    return edgekit.convert(source, made / "demo", "q8").path


@pytest.mark.parametrize("arguments", [["-p", b"caf\xe9"], ["-p", "a", "--chat", "--system", b"\xff"]])
def test_arguments_that_are_not_utf8_are_one_line(arguments: list[str | bytes], bundle: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "run", str(bundle), "-n", "1", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONUTF8": "1"})
    assert done.returncode != 0
    assert done.stderr.count(b"\n") == 1
    assert b"not valid UTF-8" in done.stderr


def chat_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    llama().save(str(folder / "tokenizer.json"))
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    tokens["eos_token"] |= {"__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False}  # type: ignore[operator]
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokens, "add_bos_token": True, **config}))
    return folder


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "Zwölf Boxkämpfer, 日本語"},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"b": 1, "a": [True, None]}}]},
    {"role": "tool", "content": "5 > 4", "extra": None},
    {"role": "assistant", "content": "Yes.", "reasoning": "five is more"},
    {"role": "user", "content": "Good"},
]
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "description": "a <b> & é"}}]
TEMPLATES = {
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }},"
    "{% if loop.index > 3 %}{% break %}{% endif %}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}[{{ m.content }}]\n"
    "{% endgeneration %}{%- else %}{{ m.content }}{% endif %}{% endfor %}",
    "tools are none": "{{ tools is none }} {{ tools is defined }} {{ documents is none }} {{ tools }}",
    "tojson": "{{ messages | tojson }}\n{{ messages[2] | tojson(indent=2) }}"
    "{{ messages[1] | tojson(ensure_ascii=True) }}"
    "{{ messages[2].tool_calls | tojson(separators=(',', ':'), sort_keys=True) }}",
    "time": "{{ strftime_now('%Y year') }}",
    "tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ add_bos_token is defined }}{{ unk_token }}",
    "missing keys": "{% for m in messages %}{{ 'content' in m }}{{ m.content is defined }} {% endfor %}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "dict": "{{ dict(a=1, b='c') }}{{ dict.fromkeys(['x'], 1) }}",
    "white space": "{% for m in messages %}\n    {% if true %}\n  {{ m.role }}\n    {% endif %}\n{% endfor %}\n",
    "prompt": "{% if add_generation_prompt %}<|assistant|>{% endif %}\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(name: str, tmp_path: Path) -> None:
    folder = chat_folder(tmp_path, chat_template=TEMPLATES[name], unk_token="<unk>")
    theirs = AutoTokenizer.from_pretrained(folder)
    for tools in (None, TOOLS):
        expected = theirs.apply_chat_template(MESSAGES, tools=tools, tokenize=False, add_generation_prompt=True)
        assert Tokenizer(folder).chat(MESSAGES, tools=tools) == expected


def test_special_tokens_map_gives_names_to_templates(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path, chat_template="{{ bos_token }}|{{ pad_token }}|{{ sep_token }}")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<unk>", "sep_token": {"content": "</s>"}})
    )
    expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(MESSAGES, tokenize=False)
    assert Tokenizer(folder).chat(MESSAGES) == expected == "<s>|<unk>|</s>"


def test_named_templates_are_chosen_as_in_transformers(tmp_path: Path) -> None:
    named = [{"name": n, "template": f"{n} {{{{ messages | length }}}}"} for n in ("default", "tool_use", "rag")]
    folder = chat_folder(tmp_path, chat_template=named)
    theirs, ours = AutoTokenizer.from_pretrained(folder), Tokenizer(folder)
    assert ours.has_chat_template
    for tools in (None, [], TOOLS):
        expected = theirs.apply_chat_template(MESSAGES, tools=tools, tokenize=False)
        assert ours.chat(MESSAGES, tools=tools) == expected
    chat_folder(tmp_path, chat_template=named[1:])
    with pytest.raises(BundleError, match="no 'default' among its chat templates 'rag', 'tool_use'"):
        Tokenizer(folder).chat(MESSAGES)


def test_template_files_take_precedence_as_in_transformers(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path, chat_template="config")
    legacy = folder / "chat_template.json"
    legacy.write_text(json.dumps({"chat_template": "json"}))

    def both(tools: list[dict[str, Any]] | None = None) -> str:
        expected = AutoTokenizer.from_pretrained(folder).apply_chat_template(MESSAGES, tools=tools, tokenize=False)
        assert Tokenizer(folder).chat(MESSAGES, tools=tools) == expected
        return str(expected)

    assert both() == "config"
    (folder / "chat_template.jinja").write_text("jinja")
    assert both() == "jinja"
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("tools")
    assert both() == "jinja"
    assert both(TOOLS) == "tools"


def test_a_processors_template_is_used_where_the_tokenizer_has_none(tmp_path: Path) -> None:
    folder = chat_folder(tmp_path)
    assert not Tokenizer(folder).has_chat_template
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].role }}"}))
    assert Tokenizer(folder).chat(MESSAGES) == "system"


@pytest.mark.parametrize(
    "broken",
    [5, {"a": 1}, [1], [{"name": "default"}], [{"name": 1, "template": "x"}], [{"name": "default", "template": None}]],
)
def test_a_chat_template_of_another_type_is_one_error(broken: Any, tmp_path: Path) -> None:
    folder = chat_folder(tmp_path, chat_template=broken)
    with pytest.raises(BundleError, match="chat_template"):
        Tokenizer(folder).chat(MESSAGES)


def test_a_conversation_without_messages_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no messages"):
        Tokenizer(chat_folder(tmp_path, chat_template="x")).chat([])


def without_tokenizer(source: Path, folder: Path) -> Path:
    """A checkpoint whose tokenizer.json is not there; tokenizer.model is, if the source has it."""
    folder.mkdir()
    for file in source.iterdir():
        if file.name != "tokenizer.json":
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def convert(checkpoint: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", "convert", str(checkpoint), "-o", str(out), "--json", *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_checkpoint_without_tokenizer_gets_a_warning_whose_command_makes_one(stories: Path, tmp_path: Path) -> None:
    checkpoint, out = without_tokenizer(stories, tmp_path / "with space"), tmp_path / "out.edgekit"
    done = convert(checkpoint, out)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"edgekit: warning: {checkpoint}: no tokenizer.json")
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "LlamaTokenizer"  # as checkpoints say that have a SentencePiece model only
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config))
    command = shlex.split(done.stderr.partition("then convert again: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True)
    done = convert(checkpoint, out, "--overwrite")
    assert (done.returncode, done.stderr) == (0, "")
    assert Tokenizer(out / "tokenizer").encode(PROMPTS[0]) == Tokenizer(stories).encode(PROMPTS[0])


def test_a_calibration_without_tokenizer_is_refused_before_any_work(tmp_path: Path) -> None:
    checkpoint = without_tokenizer(ROOT / "examples" / "demo_model" / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "text.txt").write_text(TEXTS[0])
    done = convert(checkpoint, tmp_path / "out.edgekit", "--calibration", str(tmp_path / "text.txt"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"edgekit: {checkpoint}: no tokenizer.json")
    assert done.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "text.txt"]
