"""Text to token ids and back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Native

from edgekit.checkpoint import Checkpoint, read_json
from edgekit.errors import BundleError, RuntimeFailure

FILE = "tokenizer.json"
MAKE = (
    "import sys; from transformers import AutoTokenizer as T; "
    "T.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
)
REPLACEMENT = "\ufffd"  # what half of a multi-byte character decodes to


def missing_tokenizer(checkpoint: str, opened: Checkpoint) -> str:
    """What to do for a checkpoint without tokenizer.json, in one line; "" if it has one.

    Args:
        checkpoint: its folder, file or hub id, as the user gave it.
        opened: what was found there.
    """
    if FILE in opened.files:
        return ""
    if not opened.path.is_dir():
        return f"{checkpoint}: has no tokenizer, so its bundle has no text to run on"
    command = shlex.join(["python", "-c", MAKE, checkpoint, str(opened.path)])
    return f"{checkpoint}: no {FILE}, so its bundle has no text to run on; make it, then convert again: {command}"


@dataclass(frozen=True)
class Cut:
    """The tokens of a text or a pair.

    Attributes:
        ids: of the tokens.
        types: 0 for the first text's, 1 for the second's, as the tokenizer says.
        length: tokens that there would be if nothing was left out.
        cut: whether something was.
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    length: int
    cut: bool


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RuntimeFailure(f"the text is not valid UTF-8 at character {error.start + 1}; give it in UTF-8") from error


def _shares(counts: list[int], room: int) -> list[int]:
    """How many tokens of one or two texts are kept: of the longer one fewer, as by tokenizers' "longest_first"."""
    if sum(counts) <= room:
        return counts
    if len(counts) == 1:
        return [room]
    less, more = min(counts), max(counts)
    more = less if less > room else max(less, room - less)
    if less + more > room:
        less, more = room // 2, room // 2 + room % 2
    return [more, less] if counts[0] > counts[1] else [less, more]


class Tokenizer:
    """The tokenizer of a bundle or checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        """Loads tokenizer.json.

        Raises:
            BundleError: missing or unreadable.
        """
        path = folder / FILE
        if not path.is_file():
            raise BundleError(
                f"{folder}: no {FILE}; make one with transformers: "
                "AutoTokenizer.from_pretrained(checkpoint).save_pretrained(checkpoint), then convert again"
            )
        try:
            self._native = Native.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception, with whatever the file holds in its text
            reason = " ".join(str(error).split())[:300]
            raise BundleError(f"{path}: not a tokenizer that the tokenizers library reads ({reason})") from error
        self._native.no_truncation()  # a file may bring both, which are meant for training
        self._native.no_padding()
        self._folder = folder
        config = folder / "tokenizer_config.json"
        self._config: dict[str, Any] = read_json(config) if config.is_file() else {}

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text.
            special: add what the tokenizer puts around a text, mostly BOS. As in transformers, the
                post-processor of tokenizer.json alone decides that; `add_bos_token` and `add_eos_token` of
                tokenizer_config.json do not count where there is a tokenizer.json.

        Raises:
            RuntimeFailure: the text is not valid UTF-8, as an argument of the command line may be.
        """
        _check_text(text)
        ids: list[int] = self._native.encode(text, add_special_tokens=special).ids
        return ids

    def cut(self, text: str, second: str | None, length: int) -> Cut:
        """Token ids of a text, or of a pair of texts, with what the tokenizer puts around them; of one that is too long
        the end is left out, and of a pair the end of the longer one, as transformers does.

        Args:
            text: any text.
            second: the second text of a pair; None for one text.
            length: most tokens, those around the text included.

        Raises:
            RuntimeFailure: the text is not valid UTF-8, or `length` leaves no room for it.
        """
        texts = [text] if second is None else [text, second]
        for one in texts:
            _check_text(one)
        parts = [self._native.encode(one, add_special_tokens=False) for one in texts]
        around = self._native.num_special_tokens_to_add(second is not None)
        room = length - around
        if room < len(texts):
            raise RuntimeFailure(f"{length} tokens leave no room for a text; raise the context")
        given = [len(part.ids) for part in parts]
        kept = _shares(given, room)
        for part, count in zip(parts, kept, strict=True):
            part.truncate(count)
        made = self._native.post_process(parts[0], parts[1] if second is not None else None)
        return Cut(tuple(made.ids), tuple(made.type_ids), sum(given) + around, kept != given)

    def token(self, number: int) -> str | None:
        """The token of an id, as it stands in the vocabulary."""
        found: str | None = self._native.id_to_token(number)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._native.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def _templates(self) -> dict[str, str]:
        from edgekit.generate.chat_template import read_templates

        return read_templates(self._folder, self._config)

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be called."""
        return bool(self._templates)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """Special tokens by the names that chat templates know, as "bos_token"."""
        from edgekit.generate.chat_template import special_tokens

        return special_tokens(self._folder, self._config)

    def chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None = None) -> str:
        """The prompt of a conversation, by the model's own template, rendered in a sandbox.

        Args:
            messages: objects with a "role" and mostly a "content".
            tools: JSON schemas of functions that the model may call; a template may have a form of its own for them.

        Raises:
            BundleError: no template, or it does not render.
        """
        from edgekit.generate.chat_template import choose, render

        return render(choose(self._templates, tools), messages, tools, self.special_tokens)


class Stream:
    """Turns token ids into text as they come, never half a character."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        # The last prompt tokens stay in front, so that a leading space is decoded as within a text.
        self._tokenizer = tokenizer
        self._ids = list(prompt[-4:])
        self._shown = tokenizer.decode(self._ids)
        self._keep = len(self._ids)

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is unfinished."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(REPLACEMENT) or len(text) <= len(self._shown):
            return ""
        new = text[len(self._shown) :]
        self._ids = self._ids[self._keep :] if len(self._ids) > 2 * self._keep + 16 else self._ids
        self._shown = self._tokenizer.decode(self._ids)
        return new
