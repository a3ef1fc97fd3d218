"""Text to token ids and back, and chat templates: tokenizers and sandboxed jinja2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Native

from edgekit.checkpoint import read_json
from edgekit.errors import BundleError

REPLACEMENT = "\ufffd"  # what half of a multi-byte character decodes to


class Tokenizer:
    """The tokenizer of a bundle or checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        """Loads tokenizer.json.

        Raises:
            BundleError: missing or unreadable.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise BundleError(
                f"{folder}: no tokenizer.json; make one with transformers: "
                "AutoTokenizer.from_pretrained(checkpoint).save_pretrained(checkpoint), then convert again"
            )
        try:
            self._native = Native.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"{path}: not a tokenizer that the tokenizers library reads ({error})") from error
        config = folder / "tokenizer_config.json"
        self._config: dict[str, Any] = read_json(config) if config.is_file() else {}
        template = folder / "chat_template.jinja"
        self._template = (
            template.read_text(encoding="utf-8") if template.is_file() else self._config.get("chat_template")
        )

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the tokenizer puts around a text (BOS)."""
        ids: list[int] = self._native.encode(text, add_special_tokens=special).ids
        bos = self._config.get("bos_token")
        bos = bos.get("content") if isinstance(bos, dict) else bos
        first = self._native.token_to_id(bos) if special and bos and self._config.get("add_bos_token") else None
        return ids if first is None or ids[:1] == [first] else [first, *ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._native.decode(list(ids), skip_special_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be called."""
        return isinstance(self._template, str)

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The prompt of a conversation, by the model's own template, rendered in a sandbox.

        Raises:
            BundleError: no template, or it does not render.
        """
        if not isinstance(self._template, str):
            raise BundleError("the model has no chat template; give the prompt as it should be read")
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def fail(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = fail
        names = {
            k: v.get("content") if isinstance(v, dict) else v for k, v in self._config.items() if k.endswith("_token")
        }
        try:
            template = environment.from_string(self._template)
            return template.render(messages=list(messages), add_generation_prompt=True, **names)
        except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
            raise BundleError(f"the chat template does not render: {error}") from error


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
