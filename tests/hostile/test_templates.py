"""Chat templates come from strangers and are rendered in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Native
from tokenizers import models

from edgekit.errors import BundleError
from edgekit.generate.tokenizer import Tokenizer


def tokenizer(folder: Path, template: str) -> Tokenizer:
    Native(models.BPE()).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos_token": "<s>"}))
    return Tokenizer(folder)


def test_templates_render(tmp_path: Path) -> None:
    t = tokenizer(tmp_path, "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m['content'] }}{% endfor %}")
    assert t.chat([{"role": "user", "content": "hi"}]) == "<s>[user] hi"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no system message') }}",
        "{% for %}",
        "{{ 1 / 0 }}",
        "{{ undefined.attribute }}",
    ],
)
def test_escapes_and_errors_are_one_clean_error(template: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="chat template"):
        tokenizer(tmp_path, template).chat([{"role": "user", "content": "hi"}])


LARGE = "{% set ns = namespace(x='ab') %}{% for i in range(64) %}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
        "{% set x %}{% for i in range(9999) %}{{ messages[0].content }}{% endfor %}{% endset %}"
        "{% for i in range(9999) %}{% set y %}{{ x }}{% endset %}{% endfor %}",
        LARGE + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
        LARGE + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        LARGE + "{% set ns.x = ns.x * 2 %}{% endfor %}",
        LARGE + "{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
        LARGE + "{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
        LARGE + "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
        LARGE + "{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
        LARGE + "{% set ns.x = '{0}{0}'.format(ns.x) %}{% endfor %}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ ['a'] * 10 ** 12 }}",
        "{{ 9 ** 999999999 }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ '{:>999999999999}'.format(1) }}",
        "{{ 'a' | center(10 ** 12) }}",
        "{{ 'a'.rjust(10 ** 12) }}",
        "{{ 'a' | indent(10 ** 12, true) }}",
    ],
)
def test_templates_that_never_end_or_grow_are_stopped(template: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="chat template"):
        tokenizer(tmp_path, template).chat([{"role": "user", "content": "hi" * 100}])
