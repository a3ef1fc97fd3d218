"""What a person can type in a conversation instead of a message: /help, /system, /save and the like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.chat.conversation import Conversation
from edgekit.errors import RuntimeFailure
from edgekit.runtime.session import Session


@dataclass(frozen=True)
class Reply:
    """What a command leads to.

    Attributes:
        text: to show; may be empty.
        send: a message to send, if that is what it leads to.
        draft: a text for the person to change and send.
        quit: whether the conversation ends.
    """

    text: str = ""
    send: str | None = None
    draft: str = ""
    quit: bool = False


def run_command(line: str, conversation: Conversation) -> Reply:
    """Does what a line that begins with "/" asks for.

    Raises:
        EdgekitError: there is no such command, or it cannot be done.
    """
    name, _, rest = line[1:].partition(" ")
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean /{near[0]}?" if near else "/help lists them"
        raise RuntimeFailure(f"there is no command /{name}; {hint}")
    return COMMANDS[name][1](conversation, rest.strip())


def _help(_: Conversation, __: str) -> Reply:
    """Lists the commands."""
    width = max(len(shown) for shown, _ in COMMANDS.values())
    lines = [f"{shown:{width}}  {(do.__doc__ or '').splitlines()[0]}" for shown, do in COMMANDS.values()]
    return Reply("\n".join([*lines, "A line that ends with \\ goes on in the next one; Ctrl-C stops an answer."]))


def _system(conversation: Conversation, text: str) -> Reply:
    """Sets the system message; without a text, shows it."""
    if not text:
        return Reply(conversation.system or "there is no system message")
    conversation.set_system(text)
    return Reply("the system message is set")


def _save(conversation: Conversation, name: str) -> Reply:
    """Writes the conversation to a file."""
    conversation.save(_path(name, "/save"))
    return Reply(f"saved {len(conversation.messages)} messages")


def _load(conversation: Conversation, name: str) -> Reply:
    """Goes on with a conversation from a file."""
    conversation.load(_path(name, "/load"))
    return Reply(f"loaded {len(conversation.messages)} messages")


def _path(name: str, command: str) -> Path:
    if not name:
        raise RuntimeFailure(f"give a file: {command} FILE")
    return Path(name).expanduser()


def _edit(conversation: Conversation, text: str) -> Reply:
    """Takes the last message back to be changed; with a text, sends that instead."""
    before = conversation.take_back()
    return Reply(send=text) if text else Reply(draft=before, text=f"taken back: {before}")


def _retry(conversation: Conversation, _: str) -> Reply:
    """Answers the last message again."""
    return Reply(send=conversation.take_back())


def _ram(conversation: Conversation, size: str) -> Reply:
    """Changes the memory budget, as in /ram 300M; without a size, shows it."""
    session = conversation.model.session
    if not isinstance(session, Session):
        raise RuntimeFailure("the budget of an artifact cannot be changed")
    if size:
        session.set_budget(size)
    plan = session.plan
    return Reply(
        f"budget {_mib(plan.budget_bytes)}, {_mib(plan.resident_bytes)} of {_mib(plan.weight_bytes)} weights resident"
    )


def _stats(conversation: Conversation, _: str) -> Reply:
    """Shows tokens, speed, memory and reads."""
    s, plan = conversation.model.stats, conversation.model.plan
    speed = s.generated_tokens / s.generation_seconds if s.generation_seconds else 0.0
    session = conversation.model.session
    lines = (
        f"text      {session.position} of {plan.context} tokens; {conversation.evaluated} of the last prompt were new",
        f"speed     {speed:.1f} tok/s, {s.generated_tokens} tokens generated, {s.prompt_tokens} read",
        f"memory    {_mib(s.memory_bytes)} of {_mib(plan.budget_bytes)}, at most {_mib(s.peak_memory_bytes)}",
        f"flash     {_mib(s.bytes_read)} read",
    )
    return Reply("\n".join(lines))


def _clear(conversation: Conversation, _: str) -> Reply:
    """Forgets the conversation but the system message."""
    conversation.clear()
    return Reply("cleared")


def _quit(_: Conversation, __: str) -> Reply:
    """Ends the program."""
    return Reply(quit=True)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


COMMANDS: dict[str, tuple[str, Callable[[Conversation, str], Reply]]] = {
    "help": ("/help", _help),
    "system": ("/system [TEXT]", _system),
    "save": ("/save FILE", _save),
    "load": ("/load FILE", _load),
    "edit": ("/edit [TEXT]", _edit),
    "retry": ("/retry", _retry),
    "ram": ("/ram [SIZE]", _ram),
    "stats": ("/stats", _stats),
    "clear": ("/clear", _clear),
    "quit": ("/quit", _quit),
}
