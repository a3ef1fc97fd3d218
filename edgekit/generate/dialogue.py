"""From messages to a prompt: by the model's chat template, or as a plain transcript where it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.errors import BundleError
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.pictures import PictureRows

NAMES = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
PLAIN_STOP = ("\nUser:", "\nSystem:")  # where the model begins to write the other side


@dataclass(frozen=True)
class Prompt:
    """A conversation as the model reads it.

    Attributes:
        text: of the prompt.
        ids: its tokens.
        stop: strings that end the answer, beside the model's end-of-text tokens.
        pictures: what stands for some of the tokens.
    """

    text: str
    ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    pictures: tuple[PictureRows, ...] = ()


def render_dialogue(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None
) -> Prompt:
    """The prompt that an assistant's answer follows.

    Args:
        tokenizer: of the bundle; its chat template is used if it has one, else lines as "User: Hello".
        messages: objects with a "role" and a "content", which is a text.
        tools: JSON schemas of functions, for templates that know them.

    Raises:
        BundleError: no messages, the template does not render, or there are tools and no template.
    """
    if tokenizer.has_chat_template:
        text = tokenizer.chat(messages, tools)
        return Prompt(text, tuple(tokenizer.encode(text, special=False)))
    if tools:
        raise BundleError("the model has no chat template, so it knows no tools; leave the tools out")
    if not messages:
        raise BundleError("a chat has no messages; give at least one")
    text = plain_text(messages)
    return Prompt(text, tuple(tokenizer.encode(text)), PLAIN_STOP)


def plain_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt of a model without a chat template."""
    lines = [f"{NAMES.get(m['role'], m['role'])}: {m.get('content') or ''}" for m in messages]
    return "\n".join([*lines, "Assistant:"])
