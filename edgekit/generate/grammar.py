"""Structured output: a text that a JSON schema, a regular expression or a Lark grammar allows (llguidance).

Before each token a mask says which tokens may follow. It is computed on a thread of its own while the model computes,
and sampling goes on as if the other tokens did not exist; so the text with drafts is that without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import GrammarError, MissingPackageError
from edgekit.runtime.session import Mask, Session

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

KINDS = ("json_schema", "regex", "lark")
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}  # what "json_object" asks for
MOST_CHARACTERS = 1 << 20  # of a grammar's source


@dataclass(frozen=True)
class Grammar:
    """What a text must be, for one tokenizer. Make it with `compile_grammar`."""

    source: str
    tokenizer: LLTokenizer

    def matcher(self) -> Matcher:
        """A matcher for one text.

        Raises:
            GrammarError: the grammar is wrong, or too large.
        """
        return Matcher(_checked(self))


class Matcher:
    """Follows one text through its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        """`matcher`: at the beginning of the text."""
        self._matcher = matcher
        self._ahead: Future[Mask] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def accept(self, token: int) -> bool:
        """Goes on behind a token that was chosen; False when the text is complete and nothing may follow.

        Raises:
            GrammarError: the grammar does not allow it, or has become too complex.
        """
        self._ahead = None
        if not self._matcher.consume_token(token):
            raise GrammarError(f"the grammar does not go on: {_line(self._matcher.get_error())}")
        if self._matcher.is_stopped():
            return False
        if self._pool is not None:
            self._ahead = self._pool.submit(self._compute)
        return True

    @property
    def complete(self) -> bool:
        """Whether the text so far is all that the grammar asks for."""
        return bool(self._matcher.is_accepting())

    @contextmanager
    def masking(self, session: Session) -> Iterator[None]:
        """Within it, the session chooses only what the grammar allows."""
        self._words = (session.vocab_size + 31) // 32
        with ThreadPoolExecutor(1) as pool:
            self._pool = pool
            session.mask_with(self._fill)
            try:
                yield
            finally:
                self._pool = None
                if not session.handle.closed:
                    session.mask_with(None)

    def _compute(self) -> Mask:
        mask = np.empty(self._words, dtype=np.uint32)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise GrammarError(f"the grammar does not go on: {_line(self._matcher.get_error())}")
        return mask

    def _fill(self, mask: Mask) -> None:
        mask[:] = self._compute() if self._ahead is None else self._ahead.result()


def compile_grammar(
    kind: str, text: str | Mapping[str, Any], folder: Path, vocab_size: int, eos_token_ids: tuple[int, ...]
) -> Grammar:
    """A grammar for a bundle's tokenizer.

    Args:
        kind: "json_schema", "regex" or "lark".
        text: the schema (also as an object), the expression, or the grammar.
        folder: where tokenizer.json is.
        vocab_size: the model's, which may be more than the tokenizer's.
        eos_token_ids: tokens that end a text.

    Raises:
        MissingPackageError: llguidance is not installed.
        GrammarError: the text is no such grammar, or the model has no end-of-text token.
    """
    matcher = _package().LLMatcher
    if kind not in KINDS:
        raise GrammarError(f"a grammar is one of {', '.join(KINDS)}, not {kind!r}")
    source = text if isinstance(text, str) else json.dumps(text)
    if len(source) > MOST_CHARACTERS:
        raise GrammarError(f"the grammar has more than {MOST_CHARACTERS} characters")
    try:
        if kind == "json_schema":
            # Without spaces between members: a small model that may write spaces may write nothing else.
            compact: Any = {"whitespace_flexible": False}
            source = matcher.grammar_from_json_schema(source, defaults=compact)
        elif kind == "regex":
            source = matcher.grammar_from_regex(source)
        else:
            source = matcher.grammar_from_lark(source)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"the {kind.replace('_', ' ')} is not valid: {_line(str(error))}") from error
    grammar = Grammar(source, _tokenizer(folder / "tokenizer.json", vocab_size, eos_token_ids))
    _checked(grammar)
    return grammar


def _checked(grammar: Grammar) -> LLMatcher:
    matcher: LLMatcher = _package().LLMatcher(grammar.tokenizer, grammar.source, log_level=0)
    if matcher.is_error():
        raise GrammarError(f"the grammar is not valid: {_line(matcher.get_error())}")
    return matcher


@lru_cache(maxsize=8)
def _tokenizer(path: Path, vocab_size: int, eos_token_ids: tuple[int, ...]) -> LLTokenizer:
    if not eos_token_ids:
        raise GrammarError("the model has no end-of-text token, which a grammar needs to end a text")
    made: LLTokenizer = _package().LLTokenizer(
        path.read_text(encoding="utf-8"), n_vocab=vocab_size, eos_token=list(eos_token_ids)
    )
    return made


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else "no reason is given"


def _package() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise MissingPackageError(
            "a grammar needs llguidance; install it with: pip install 'edgekit[grammar]'"
        ) from error
    return llguidance
