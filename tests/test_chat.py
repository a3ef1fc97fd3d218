"""`edgekit chat`: what is evaluated, what is left out, what is typed."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.chat.commands import run_command
from edgekit.chat.conversation import Conversation
from edgekit.conversion import convert
from edgekit.errors import BundleError, ContextFullError, EdgekitError, RuntimeFailure
from edgekit.generate.dialogue import render_dialogue
from edgekit.generate.loop import TextModel
from edgekit.generate.reuse import shared_tokens
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options, Sampling
from tests.conftest import DEMO, ROOT

GREEDY = Sampling(temperature=0)
READY = "\x1b[?2004h"  # what prompt_toolkit writes when it begins to read a line
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("plain") / "demo", "q4").path


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templated")
    shutil.copytree(DEMO, folder / "checkpoint")
    (folder / "checkpoint" / "chat_template.jinja").write_text(TEMPLATE)
    return convert(folder / "checkpoint", folder / "demo", "q4").path


@pytest.fixture(params=["plain", "templated"])
def model(request: pytest.FixtureRequest) -> Iterator[TextModel]:
    bundle: Path = request.getfixturevalue(request.param)
    with TextModel(bundle, Options(context=256, ram="2500K")) as opened:
        yield opened


def talk(model: TextModel, most: int = 12) -> tuple[Conversation, list[str]]:
    notes: list[str] = []
    return Conversation(model, GREEDY, most, notify=notes.append), notes


def test_a_turn_evaluates_only_what_is_new(model: TextModel) -> None:
    chat, _ = talk(model)
    "".join(chat.answer("Once upon a time there was a dog. What did it do?"))
    held = session_of(model).tokens
    before = model.stats.prompt_tokens
    "".join(chat.answer("And then?"))
    asked = render_dialogue(model.tokenizer, chat.messages[:-1]).ids
    new = len(asked) - shared_tokens(held, asked)
    assert 0 < new < len(asked) / 2
    assert model.stats.prompt_tokens - before == new == chat.evaluated


def session_of(model: TextModel) -> Session:
    assert isinstance(model.session, Session)
    return model.session


def test_kept_tokens_do_not_change_the_answer(model: TextModel) -> None:
    chat, _ = talk(model)
    answers = ["".join(chat.answer(t)) for t in ("Tell me of a cat.", "Why?", "And the dog?")]
    prompt = render_dialogue(model.tokenizer, chat.messages[:-1])
    alone = "".join(p.text for p in model.generate(prompt.ids, 12, GREEDY, prompt.stop))
    assert alone == answers[-1]


def test_a_full_context_leaves_out_the_oldest_and_keeps_the_system_message(model: TextModel) -> None:
    chat, notes = talk(model, 24)
    chat.set_system("Speak as a little cat does.")
    for turn in range(12):
        "".join(chat.answer(f"This is message number {turn} of a long talk about a red ball."))
    assert any("context is full" in n and "kept the system message" in n for n in notes)
    assert chat.messages[0] == {"role": "system", "content": "Speak as a little cat does."}
    assert chat.messages[1]["role"] == "user"
    assert "number 11" in chat.messages[-2]["content"]
    assert len(render_dialogue(model.tokenizer, chat.messages).ids) <= 256


def test_an_answer_goes_on_behind_a_full_context(templated: Path) -> None:
    with TextModel(templated, Options(context=96)) as model:
        chat, notes = talk(model, 200)
        "".join(chat.answer("A cat and a dog went out."))
        notes.clear()
        short = chat.messages[:]
        text = "".join(chat.answer("Go on."))
        if chat.finish_reason == "context":  # nothing is left to leave out
            assert len(chat.messages) <= len(short)
        assert notes
        assert text


def test_a_message_that_never_fits_is_refused_and_not_kept(model: TextModel) -> None:
    chat, _ = talk(model)
    with pytest.raises(ContextFullError, match="shorten it"):
        list(chat.answer("word " * 400))
    assert chat.messages == []


def test_an_answer_that_is_left_stays_in_the_conversation(model: TextModel) -> None:
    chat, _ = talk(model)
    stream = chat.answer("Once upon a time")
    first = next(stream) + next(stream)
    stream.close()
    assert chat.messages[-1] == {"role": "assistant", "content": first.strip()}
    assert "".join(chat.answer("Go on"))


def test_commands(model: TextModel, tmp_path: Path) -> None:
    chat, _ = talk(model)
    assert "/retry" in run_command("/help", chat).text
    run_command("/system Be brief.", chat)
    assert run_command("/system", chat).text == "Be brief."
    first = "".join(chat.answer("Hello"))
    assert run_command("/retry", chat).send == "Hello"
    assert len(chat.messages) == 1
    assert "".join(chat.answer("Hello")) == first
    edited = run_command("/edit", chat)
    assert (edited.draft, edited.send) == ("Hello", None)
    list(chat.answer("Hello"))
    assert run_command("/edit Bye", chat).send == "Bye"
    list(chat.answer("Bye"))
    kept = list(chat.messages)
    run_command(f"/save {tmp_path / 'talk.json'}", chat)
    run_command("/clear", chat)
    assert [m["role"] for m in chat.messages] == ["system"]
    run_command(f"/load {tmp_path / 'talk.json'}", chat)
    assert chat.messages == kept
    assert "budget 2.3 MiB" in run_command("/ram 2400K", chat).text
    assert model.plan.budget_bytes == 2400 << 10
    assert "tok/s" in run_command("/stats", chat).text
    assert run_command("/quit", chat).quit
    for wrong, reason in (
        ("/rety", "did you mean /retry"),
        ("/save", "give a file"),
        ("/ram 1K", "needs at least|below"),
    ):
        with pytest.raises(EdgekitError, match=reason):
            run_command(wrong, chat)
    (tmp_path / "bad.json").write_text('{"messages": [{"role": "robot", "content": 3}]}')
    with pytest.raises(BundleError, match="not a conversation"):
        run_command(f"/load {tmp_path / 'bad.json'}", chat)
    assert chat.messages == kept
    chat.clear()
    with pytest.raises(RuntimeFailure, match="no message"):
        run_command("/retry", chat)


def test_pipes_are_answered_line_by_line(plain: Path) -> None:
    command = [sys.executable, "-m", "edgekit", "chat", str(plain), "-n", "8", "--temp", "0", "--ram", "2500K"]
    text = "Once upon\\\n a time\n/nonsense\n\n/retry\n/quit\nnever read\n"
    done = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.strip("\n").split("\n")
    assert len(answers) == 2
    assert answers[0] == answers[1] != ""
    assert "no command /nonsense" in done.stderr
    assert "no chat template" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_a_pipe_needs_no_prompt_toolkit(plain: Path) -> None:
    script = (
        "import sys; sys.modules['prompt_toolkit'] = None; from edgekit.cli.main import main;"
        f"sys.exit(main(['chat', {str(plain)!r}, '-n', '4', '-q']))"
    )
    done = subprocess.run([sys.executable, "-c", script], input="Hi\n", cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


class Terminal:
    """`edgekit chat` in a pseudo-terminal of 40 columns."""

    def __init__(self, bundle: Path, home: Path, *more: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "edgekit", "chat", str(bundle), "--temp", "0", *more]
        environment = {**os.environ, "XDG_STATE_HOME": str(home), "TERM": "xterm", "COLUMNS": "40", "LINES": "24"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True,
            preexec_fn=take_terminal,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, within: float = 100) -> None:
        """Reads until a text was seen that has not been waited for before."""
        end = time.monotonic() + within
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} never came: {self.seen[-2000:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                data = os.read(self.master, 4096).decode(errors="replace")
                if "\x1b[6n" in data:
                    self.type("\x1b[1;1R")  # where the cursor is, which prompt_toolkit asks
                self.seen += data
        self.seen = self.seen.split(text, 1)[1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def take_terminal() -> None:
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background has it ignored, and hands that on
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "checkpoint")
    config = json.loads((DEMO / "config.json").read_text())
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 60_000}))
    bundle = convert(tmp_path / "checkpoint", tmp_path / "demo", "q4").path
    terminal = Terminal(bundle, tmp_path / "home", "-c", "50000", "-n", "40000", "--regex", "[a-z ]{5000}")
    try:
        terminal.wait_for(READY)
        terminal.type("Once upon a time\r")
        terminal.wait_for("the")
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for(READY)
        terminal.type("/stats\r")
        terminal.wait_for("tok/s")
        terminal.wait_for(READY)
        terminal.type("\x03")  # at the prompt it ends nothing either
        terminal.wait_for("/quit")
        terminal.wait_for(READY)
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()
    assert "Once upon a time" in (tmp_path / "home" / "edgekit" / "chat_history").read_text()
