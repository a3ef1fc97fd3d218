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
