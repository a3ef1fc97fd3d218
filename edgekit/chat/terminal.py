"""The loop of a conversation: lines in, answers out, in a terminal or through a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

from edgekit.chat.commands import COMMANDS, Reply, run_command
from edgekit.chat.conversation import Conversation
from edgekit.errors import EdgekitError, MissingPackageError


class Lines(Protocol):
    """Where messages come from."""

    def read(self, draft: str = "") -> str | None:
        """The next message; None at the end. `draft`: a text to begin with."""
        ...


class PipeLines:
    """Messages from a file or pipe: one a line; a line that ends with a backslash goes on in the next."""

    def __init__(self, source: TextIO) -> None:
        self._source = source

    def read(self, draft: str = "") -> str | None:
        lines: list[str] = []
        for line in self._source:
            text = line.rstrip("\r\n")
            lines.append(text.removesuffix("\\"))
            if not text.endswith("\\"):
                return "\n".join(lines)
        return "\n".join(lines) if lines else None


class TerminalLines:
    """Messages that a person types: history, editing, completion of commands, several lines."""

    def __init__(self, history: Path) -> None:
        """`history`: the file that keeps what was typed.

        Raises:
            MissingPackageError: prompt_toolkit is not installed.
        """
        try:
            from prompt_toolkit import PromptSession
            from prompt_toolkit.completion import WordCompleter
            from prompt_toolkit.history import FileHistory, InMemoryHistory
        except ImportError as error:
            raise MissingPackageError(
                "a conversation in the terminal needs prompt_toolkit; install it with: pip install 'edgekit[chat]'"
            ) from error
        kept: FileHistory | InMemoryHistory
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            history.touch(mode=0o600, exist_ok=True)
            kept = FileHistory(str(history))
        except OSError:  # a home that cannot be written is no reason not to talk
            kept = InMemoryHistory()
        words = [f"/{name}" for name in COMMANDS]
        self._session: PromptSession[str] = PromptSession(
            history=kept,
            completer=WordCompleter(words, sentence=True),
            complete_while_typing=False,
            key_bindings=_newline_keys(),
            prompt_continuation="  ",
        )

    def read(self, draft: str = "") -> str | None:
        lines: list[str] = []
        while True:
            try:
                text = self._session.prompt("> " if not lines else "  ", default=draft)
            except EOFError:
                return None
            draft = ""
            lines.append(text.removesuffix("\\"))
            if not text.endswith("\\"):
                return "\n".join(lines)


def _newline_keys() -> Any:
    """Alt-Enter begins a line; Enter sends."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def history_file() -> Path:
    """Where what was typed is kept: under XDG_STATE_HOME, or ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "edgekit" / "chat_history"


def talk(conversation: Conversation, lines: Lines, show: Callable[[str], None], notice: Callable[[str], None]) -> None:
    """Reads messages and answers them, until they end or /quit.

    Args:
        conversation: with whom.
        lines: where messages come from.
        show: prints a piece of an answer.
        notice: prints a line that is not part of an answer.
    """
    reply = Reply()
    while not reply.quit:
        try:
            text = lines.read(reply.draft)
        except KeyboardInterrupt:
            notice("to end, type /quit or Ctrl-D")
            reply = Reply()
            continue
        if text is None:
            return
        reply = Reply()
        if not text.strip():
            continue
        try:
            reply = run_command(text.strip(), conversation) if text.startswith("/") else Reply(send=text)
            if reply.text:
                notice(reply.text)
            if reply.send is not None:
                _print_answer(conversation.answer(reply.send), show)
                if conversation.finish_reason in ("length", "context"):
                    notice(_ENDED[conversation.finish_reason])
        except KeyboardInterrupt:
            show("\n")
            notice("stopped; /retry answers again")
        except EdgekitError as error:
            notice(f"edgekit: {error}")


_ENDED = {
    "length": "the answer has as many tokens as --max-tokens allows",
    "context": "the context is full, so the answer ends here; /clear begins afresh",
}


def _print_answer(pieces: Iterator[str], show: Callable[[str], None]) -> None:
    begun = False
    for piece in pieces:
        text = piece if begun else piece.lstrip()
        begun = begun or bool(text)
        if text:
            show(text)
    show("\n")


def print_piece(text: str) -> None:
    """A piece of an answer on stdout, at once. Control characters of the model do not reach a terminal."""
    if sys.stdout.isatty():
        text = "".join(c for c in text if c in "\n\t" or c.isprintable())
    sys.stdout.write(text)
    sys.stdout.flush()
