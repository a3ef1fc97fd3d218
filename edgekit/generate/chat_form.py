"""A chat template as plain data, for programs that have no jinja.

Most templates put fixed texts between the messages, which depend on nothing but the roles on both sides. Those texts
are found by rendering conversations of marker words, and count only when they make random conversations exactly as
the template does. `EdgeKit` for Swift reads the result from a bundle (docs/format.md, "Conversations").
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from edgekit.arch.spec import Model
from edgekit.checkpoint import Checkpoint, read_json
from edgekit.errors import BundleError, EdgekitError
from edgekit.generate.chat_template import choose, read_templates, render, special_tokens
from edgekit.generate.dialogue import PLAIN_STOP, plain_text
from edgekit.generate.tokenizer import FILE as TOKENIZER

FILE = "edgekit_chat.json"
VERSION = 1
START, ANSWER = "start", "answer"  # before the first message, and where the model goes on
DATE = ("\ue000", "\ue001")  # a time format between them stands for the date of the day
REASONING_END = "</think>"
TRIMS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "both": str.strip,
    "left": str.lstrip,
    "right": str.rstrip,
}
CONVERSATIONS = 200  # that a form must make as its template does
PIECES = (
    "a",
    "Zoe",
    "\u00e9t\u00e9",
    "\U0001f642",
    "\n",
    " ",
    "\t",
    "{{ x }}",
    "<b>",
    "&",
    "'\"",
    "\\n",
    "1.5",
    "\u00a0",
    "\u65e5",
)

Conversation = Sequence[tuple[str, str]]  # (role, content)
Render = Callable[[Conversation], str]


@dataclass(frozen=True)
class ChatForm:
    """How messages become a prompt.

    Attributes:
        between: texts by the roles on both sides; "start" and "answer" are the ends.
        trim: a key of TRIMS by role: white space that is taken off a message.
        reasoning_end: of the model's messages only what follows the last of these counts; None: all does.
        special: the tokenizer puts its own tokens around the prompt.
        stop: strings that end an answer.
    """

    between: Mapping[tuple[str, str], str]
    trim: Mapping[str, str] = field(default_factory=dict)
    reasoning_end: str | None = None
    special: bool = False
    stop: tuple[str, ...] = ()

    def text(self, conversation: Conversation) -> str:
        """The prompt of a conversation, with markers for dates.

        Raises:
            KeyError: a role cannot stand where it stands.
        """
        roles = [START, *(role for role, _ in conversation), ANSWER]
        contents = [self._content(role, content) for role, content in conversation]
        texts = [self.between[pair] for pair in pairwise(roles)]
        return "".join(part for pair in zip(texts, [*contents, ""], strict=True) for part in pair)

    def _content(self, role: str, content: str) -> str:
        if role == "assistant" and self.reasoning_end is not None and self.reasoning_end in content:
            content = content.rsplit(self.reasoning_end, 1)[1].lstrip("\n")
        return TRIMS[self.trim.get(role, "none")](content)


def plain_form() -> ChatForm:
    """Of models without a template."""
    form = _found(lambda c: plain_text(_messages(c)), ("system", "user", "assistant"))
    return ChatForm(form.between, special=True, stop=PLAIN_STOP)


def chat_form(template: str, tokens: Mapping[str, str]) -> ChatForm:
    """The form of a chat template.

    Args:
        template: jinja2 source, rendered in a sandbox.
        tokens: special tokens by name.

    Raises:
        BundleError: it has none, or does not render.
    """
    if any(mark in template for mark in DATE):
        raise BundleError("the chat template has characters for private use")

    def rendered(conversation: Conversation) -> str:
        return render(template, _messages(conversation), None, tokens, lambda form: f"{DATE[0]}{form}{DATE[1]}")

    for roles in (("system", "user", "assistant"), ("user", "assistant")):  # some take no system message, or move it
        try:
            form = _trimmed(_found(rendered, roles), rendered, roles)
        except (BundleError, ValueError, KeyError):
            continue
        if all(form.text(c) == rendered(c) for c in _samples(roles, form.reasoning_end is not None)):
            return form
    rendered([("user", "Hello")])
    raise BundleError("the chat template is not made of fixed texts between messages")


def chat_files(opened: Checkpoint, model: Model) -> tuple[dict[str, bytes], str]:
    """What comes to the tokenizer's files of a bundle, by name, and a warning where the template has no form.

    Args:
        opened: the checkpoint.
        model: its description.
    """
    if TOKENIZER not in opened.files or model.output != "logits":
        return {}, ""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in opened.files:
            if name != TOKENIZER:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(opened.file(name))
        config = folder / "tokenizer_config.json"
        try:
            templates = read_templates(folder, read_json(config) if config.is_file() else {})
            tokens = special_tokens(folder, read_json(config) if config.is_file() else {})
            form = chat_form(choose(templates, None), tokens) if templates else plain_form()
        except EdgekitError as error:
            return {}, f"no conversations in Swift apps, as {error}; there, prompts are given as they should be read"
    return {FILE: written(form, model)}, ""


def written(form: ChatForm, model: Model) -> bytes:
    """The content of FILE."""
    made = {
        "version": VERSION,
        "between": [{"after": a, "before": b, "text": t} for (a, b), t in sorted(form.between.items())],
        "trim": dict(sorted(form.trim.items())),
        "reasoning_end": form.reasoning_end,
        "special": form.special,
        "stop": list(form.stop),
        "stop_tokens": list(model.eos_token_ids),
        "keeps_beginnings": not any(rope.switch_length for rope in model.ropes),
    }
    return json.dumps(made, indent=1).encode() + b"\n"


def _messages(conversation: Conversation) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in conversation]


def _found(rendered: Render, roles: Sequence[str]) -> ChatForm:
    """The texts between marker words.

    Raises:
        ValueError: a word is missing.
        BundleError: a conversation does not render.
    """
    between: dict[tuple[str, str], str] = {}
    turns = ["user", "assistant", "user", "assistant", "user"]
    for conversation in (turns, ["system", *turns]) if "system" in roles else (turns,):
        marked = [(role, f"zq{i}xv") for i, role in enumerate(conversation)]
        text, before = rendered(marked), START
        for role, word in marked:
            head, text = text.split(word, 1)
            between.setdefault((before, role), head)
            before = role
        between.setdefault((before, ANSWER), text)
    return ChatForm(between)


def _trimmed(form: ChatForm, rendered: Render, roles: Sequence[str]) -> ChatForm:
    """The form with what its template leaves out of messages.

    Raises:
        ValueError: it does something else with white space.
    """
    trim = {}
    for role in roles:
        turns = (
            ["user"] if role == "user" else ["system", "user"] if role == "system" else ["user", "assistant", "user"]
        )
        padded = [(r, " \n\u00a0ab c\t\n " if r == role else "x") for r in turns]
        want = rendered(padded)
        trim[role] = next(k for k in [*TRIMS, ""] if not k or ChatForm(form.between, {role: k}).text(padded) == want)
        if not trim[role]:
            raise ValueError(role)
    form = ChatForm(form.between, {r: k for r, k in trim.items() if k != "none"})
    thinking = [("user", "a"), ("assistant", f"b{REASONING_END}\n\nc"), ("user", "d")]
    cut = ChatForm(form.between, form.trim, REASONING_END)
    return cut if cut.text(thinking) == rendered(thinking) else form


def _samples(roles: Sequence[str], reasons: bool) -> Iterator[Conversation]:
    """Random conversations, always the same."""
    rng = random.Random(0)
    for _ in range(CONVERSATIONS):
        turns = ["system"] if "system" in roles and rng.random() < 0.5 else []
        for _ in range(rng.randrange(5)):
            turns += ["user", "assistant"]
        out = []
        for role in [*turns, "user"]:
            text = "".join(rng.choices(PIECES, k=rng.randrange(6)))
            text = text if text.strip() else f"{text}x{text}"
            if reasons and role == "assistant" and rng.random() < 0.5:
                text = f"{text}{REASONING_END}\n{text}"
            out.append((role, text))
        yield out
