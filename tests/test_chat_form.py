"""Chat templates as plain data: what is found makes the same prompts, and what has no such form is told."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from edgekit.conversion import convert
from edgekit.errors import BundleError
from edgekit.generate.chat_form import DATE, FILE, ChatForm, chat_form, plain_form
from edgekit.generate.chat_template import render
from edgekit.generate.dialogue import plain_text
from edgekit.verify import verify
from tests.conftest import DEMO

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# The structure of well-known templates, shortened.
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
REASONING = (
    "{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = false %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}"
    "{% else %}{% set content = m.content %}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}"
    "{% else %}{{ ' ' + content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content|trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n{{ system }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content|trim }}<|eot_id|>{% endfor %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first }}{{ m.content|trim }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
)
LAST_USER = (  # the system message goes into the last message: no fixed text with one, but without
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{{ system + '\n\n' if system is defined and loop.last }}{{ m.content }}[/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
COUNTING = "{% for m in messages %}{{ loop.index }}. {{ m.content }}\n{% endfor %}"
LONG = "{% for m in messages %}{{ m.content|length }} {{ m.content }}\n{% endfor %}"

TURNS = [("user", " Hi, \u00e9t\u00e9! "), ("assistant", "\n\U0001f642 Hello </s> "), ("user", "What\tnow?\u00a0")]
SYSTEM = ("system", " Be brief.\n")


def rendered(template: str, conversation: list[tuple[str, str]]) -> str:
    return render(template, [{"role": r, "content": c} for r, c in conversation], None, TOKENS)


def dated(text: str) -> str:
    """The text with today's date, as a program without jinja puts it in."""
    head, *rest = text.split(DATE[0])
    return head + "".join(datetime.now().strftime(form) + more for form, more in (p.split(DATE[1]) for p in rest))


@pytest.mark.parametrize("template", [CHATML, REASONING, LLAMA2, LLAMA3, GEMMA])
@pytest.mark.parametrize("conversation", [TURNS[:1], TURNS, [SYSTEM, *TURNS[:1]], [SYSTEM, *TURNS]])
def test_a_form_makes_the_prompts_of_its_template(template: str, conversation: list[tuple[str, str]]) -> None:
    assert dated(chat_form(template, TOKENS).text(conversation)) == rendered(template, conversation)


def test_reasoning_is_left_out_where_the_template_does_so() -> None:
    conversation = [("user", "a"), ("assistant", "<think>\nhm\n</think>\n\nyes"), ("user", "b")]
    for template in (REASONING, CHATML):
        assert chat_form(template, TOKENS).text(conversation) == rendered(template, conversation)
    assert chat_form(REASONING, TOKENS).reasoning_end == "</think>"
    assert chat_form(CHATML, TOKENS).reasoning_end is None


def test_a_system_message_that_moves_is_left_to_templates() -> None:
    form = chat_form(LAST_USER, TOKENS)
    assert form.text(TURNS) == rendered(LAST_USER, TURNS)
    with pytest.raises(KeyError):
        form.text([SYSTEM, *TURNS])


@pytest.mark.parametrize("template", [COUNTING, LONG, "{{ messages[0].content|upper }}", "always the same"])
def test_other_templates_have_no_form(template: str) -> None:
    with pytest.raises(BundleError, match="not made of fixed texts"):
        chat_form(template, TOKENS)


def test_marks_of_dates_in_a_template_are_refused() -> None:
    with pytest.raises(BundleError, match="private use"):
        chat_form(CHATML + DATE[0], TOKENS)


def test_a_template_that_does_not_render_is_told_as_such() -> None:
    with pytest.raises(BundleError, match="does not render: no"):
        chat_form("{{ raise_exception('no') }}", TOKENS)


def test_models_without_a_template_have_the_plain_transcript() -> None:
    messages = [{"role": r, "content": c} for r, c in [SYSTEM, *TURNS]]
    assert plain_form().text([SYSTEM, *TURNS]) == plain_text(messages)
    assert plain_form().special


def converted(tmp_path: Path, template: str | None) -> tuple[Path, list[str]]:
    shutil.copytree(DEMO, tmp_path / "checkpoint")
    if template is not None:
        (tmp_path / "checkpoint" / "chat_template.jinja").write_text(template)
    lines: list[str] = []
    return convert(tmp_path / "checkpoint", tmp_path / "out", "q4", warn=lines.append).path, lines


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_bundle_has_the_form_of_its_template(template: str | None, tmp_path: Path) -> None:
    bundle, lines = converted(tmp_path, template)
    verify(bundle)
    assert lines == []
    made = json.loads((bundle / "tokenizer" / FILE).read_text())
    form = ChatForm({(b["after"], b["before"]): b["text"] for b in made["between"]}, made["trim"])
    want = chat_form(template, {}) if template else plain_form()
    assert form.text([SYSTEM, *TURNS]) == want.text([SYSTEM, *TURNS])
    config = json.loads((DEMO / "config.json").read_text())
    assert made["stop_tokens"] == [config["eos_token_id"]]
    assert made["version"] == 1
    assert made["keeps_beginnings"]


def test_a_bundle_whose_template_has_no_form_says_so_in_one_line(tmp_path: Path) -> None:
    bundle, lines = converted(tmp_path, COUNTING)
    assert len(lines) == 1
    assert "no conversations in Swift apps, as the chat template is not made of fixed texts" in lines[0]
    assert not (bundle / "tokenizer" / FILE).exists()
