"""Chat templates, rendered as transformers renders them, in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.utils import Namespace

from edgekit.checkpoint import read_json
from edgekit.errors import BundleError
from edgekit.generate.sandbox import BoundedEnvironment

DEFAULT, TOOL_USE = "default", "tool_use"
FILE, FOLDER, PROCESSOR_FILE = "chat_template.jinja", "additional_chat_templates", "chat_template.json"
REASONING = ("reasoning_content", "thinking", "reasoning")  # the standard name first

Message = Mapping[str, Any]


def read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The chat templates of a tokenizer by name; one that has no name is "default".

    As in transformers, chat_template.jinja and additional_chat_templates/NAME.jinja come before the
    `chat_template` of tokenizer_config.json. chat_template.json belongs to processors, so it comes last.

    Args:
        folder: where the tokenizer's files are.
        config: tokenizer_config.json.

    Raises:
        BundleError: a template is not a text.
    """
    files = {p.stem: p for p in sorted((folder / FOLDER).glob("*.jinja"))}
    if (folder / FILE).is_file():
        files[DEFAULT] = folder / FILE
    if files:
        return {name: _read(path) for name, path in files.items()}
    found, path = config.get("chat_template"), folder / "tokenizer_config.json"
    if found is None and (folder / PROCESSOR_FILE).is_file():
        path = folder / PROCESSOR_FILE
        found = read_json(path).get("chat_template")
    if found is None:
        return {}
    return _named(found, path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: the chat template cannot be read ({error})") from error


def _named(found: Any, path: Path) -> dict[str, str]:
    """Templates by name, of a text, an object, or a list of objects with "name" and "template"."""
    if isinstance(found, str):
        return {DEFAULT: found}
    if isinstance(found, list) and all(isinstance(t, dict) for t in found):
        pairs = [(t.get("name"), t.get("template")) for t in found]
    else:
        pairs = list(found.items()) if isinstance(found, dict) else [(None, None)]
    named = {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}
    if len(named) < len(pairs):
        raise BundleError(f"{path}: 'chat_template' is neither a text nor a list of objects with a name and a template")
    return named


def choose(templates: Mapping[str, str], tools: Sequence[Any] | None) -> str:
    """The template of a conversation: "tool_use" where tools are given and it exists, else "default".

    Raises:
        BundleError: there is none.
    """
    if not templates:
        raise BundleError("the model has no chat template; give the prompt as it should be read")
    if tools is not None and TOOL_USE in templates:
        return templates[TOOL_USE]
    if DEFAULT not in templates:
        names = ", ".join(f"'{n}'" for n in sorted(templates))
        raise BundleError(f"the model has no '{DEFAULT}' among its chat templates {names}")
    return templates[DEFAULT]


def special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by the names that chat templates know, as "bos_token"; arguments as of `read_templates`."""
    path = folder / "special_tokens_map.json"
    legacy = read_json(path) if path.is_file() and "added_tokens_decoder" not in config else {}
    texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in (dict(config) | legacy).items()}
    return {k: v for k, v in texts.items() if k.endswith("_token") and isinstance(v, str)}


def strftime_now(form: str) -> str:
    """The time now, for templates that tell the date."""
    return datetime.now().strftime(form)


PROBE = "\ue010words of a user\ue011"


def render(
    template: str,
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    tokens: Mapping[str, str],
    now: Callable[[str], str] = strftime_now,
) -> str:
    """The prompt of a conversation, ready for the assistant's answer.

    Args:
        template: jinja2 source; it comes from strangers.
        messages: objects with a "role" and mostly a "content"; keys whose value is None are left out.
        tools: JSON schemas of functions.
        tokens: special tokens by name, as "bos_token".
        now: writes the time in a format.

    Raises:
        BundleError: no messages, or the template does not render, or takes or makes too much (see sandbox.py).
    """
    if not messages:
        raise BundleError("a chat has no messages; give at least one")
    chat = [_aliased({k: v for k, v in m.items() if v is not None}) for m in messages]
    if _takes_parts(template, tuple(sorted(tokens.items()))):
        chat = [_in_parts(m) for m in chat]
    return _rendered(template, chat, tools, tokens, now)


@lru_cache(maxsize=16)
def _takes_parts(template: str, tokens: tuple[tuple[str, str], ...]) -> bool:
    """Whether a template wants contents as lists of parts, and leaves out what is said as a text."""
    said = {"role": "user", "content": PROBE}
    try:
        if PROBE in _rendered(template, [said], None, dict(tokens), strftime_now):
            return False
    except BundleError:
        pass
    try:
        return PROBE in _rendered(template, [_in_parts(said)], None, dict(tokens), strftime_now)
    except BundleError:
        return False


def _in_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def _rendered(
    template: str,
    chat: list[dict[str, Any]],
    tools: Sequence[Any] | None,
    tokens: Mapping[str, str],
    now: Callable[[str], str],
) -> str:
    try:
        return (
            _environment(now)
            .from_string(template)
            .render(messages=chat, tools=tools, documents=None, add_generation_prompt=True, **tokens)
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise BundleError(f"the chat template does not render: {_line(error)}") from error
    except (RecursionError, MemoryError) as error:
        raise BundleError(f"the chat template does not render: {type(error).__name__}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _aliased(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its reasoning under the names that templates read."""
    reasoning = next((message[k] for k in REASONING if k in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


# --- what templates can call, as in transformers' chat_template_utils.py ----------------------------


class _Generation(Extension):
    """`{% generation %}`: marks what the assistant wrote for training; here only the text counts."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it for instances

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Macro) -> str:
        return str(caller())


class _Dict:
    """`dict`, of which templates reach nothing but the constructor and `fromkeys`."""

    def __call__(self, *pairs: Any, **more: Any) -> dict[Any, Any]:
        return dict(*pairs, **more)

    def fromkeys(self, *keys: Any) -> dict[Any, Any]:
        return dict.fromkeys(*keys)


class _Namespace(Namespace):
    """`namespace`, which takes no names that begin with an underscore."""

    def __init__(*pairs: Any, **more: Any) -> None:
        self, rest = pairs[0], pairs[1:]  # so that `namespace(self=...)` works, as in jinja2
        values = dict(*rest, **more)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, as {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without jinja2's HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment(now: Callable[[str], str]) -> BoundedEnvironment:
    made = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": now,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return made
