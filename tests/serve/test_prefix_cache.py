"""The prefix cache on flash: the same text with less to evaluate, also after a restart; bounds, damage, strangers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import manifest
from edgekit.cli.main import main
from edgekit.conversion import convert
from edgekit.errors import BundleError, RuntimeFailure
from edgekit.runtime.model import Model, saved_tokens
from edgekit.runtime.session import F32, Session
from edgekit.runtime.values import Options
from edgekit.serve import prefix_cache
from edgekit.serve.prefix_cache import LEAST, PrefixCache
from edgekit.serve.prefix_folder import LOCK, PrefixFolder
from tests import tiny
from tests.serve.conftest import RAM, Running

STORY = "Once upon a time there was a little cat who lived with Tom and Lily in a small house by the sea. "
IDS = np.random.default_rng(0).integers(3, 199, 400).tolist()


def ask(server: Running, prompt: str) -> tuple[str, int]:
    """The greedy text behind a prompt, and how many of the prompt's tokens were there."""
    status, body = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 12, "temperature": 0})
    assert status == 200, body
    return body["choices"][0]["text"], body["usage"]["prompt_tokens_details"]["cached_tokens"]


def sessions(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.session"))


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_server_loads_what_the_first_one_read(end: signal.Signals, demo: Path, tmp_path: Path) -> None:
    arguments = (demo, "--ram", RAM, "--parallel", 1, "--ctx-size", 384)
    prompts = [STORY * 6 + "One day", STORY * 6 + "Tom said", STORY * 7 + "Lily was"]
    plain = Running(*arguments)
    want = [ask(plain, prompt)[0] for prompt in reversed(prompts)][::-1]
    plain.stop()

    first = Running(*arguments, "--prefix-cache", tmp_path / "cache")
    assert ask(first, prompts[0]) == (want[0], 0)
    if end == signal.SIGKILL:  # what an idle server has saved is not lost
        while not sessions(tmp_path / "cache"):
            assert first.process.poll() is None
    first.process.send_signal(end)
    first.process.wait(60)
    assert sessions(tmp_path / "cache")

    second = Running(*arguments, "--prefix-cache", tmp_path / "cache")
    text, cached = ask(second, prompts[1])
    assert text == want[1]
    assert cached > LEAST
    second.wait_for("prefix_cache_hits_total", 1)  # metrics are those of the last round that ended
    assert second.metric("prefix_cache_read_bytes_total") > 0
    assert second.metric("prefix_cache_bytes") == sum(p.stat().st_size for p in sessions(tmp_path / "cache"))
    text, cached = ask(second, prompts[2])
    assert text == want[2]
    assert cached > LEAST
    assert second.metric("memory_bytes") <= RAM
    assert second.metric("peak_memory_bytes") <= RAM
    second.stop()


def test_what_a_session_loses_is_saved_first(demo: Path, tmp_path: Path) -> None:
    server = Running(demo, "--parallel", 1, "--ctx-size", 384, "--prefix-cache", tmp_path / "cache")
    first, second = STORY * 5, "A dog and a bird went up the hill to see the moon and the stars at night. " * 5
    texts = [ask(server, prompt)[0] for prompt in (first, second)]
    again = [ask(server, prompt) for prompt in (first, second)]
    server.stop()
    assert [text for text, _ in again] == texts
    assert all(cached > LEAST for _, cached in again)


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(model: str) -> Path:
        if model not in made:
            folder = tmp_path_factory.mktemp(model)
            tiny.make(model, folder / "checkpoint")
            made[model] = convert(folder / "checkpoint", folder / "bundle", "q8").path
        return made[model]

    return make


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of tiny models are worth a file from 16 tokens on."""
    monkeypatch.setattr(prefix_cache, "LEAST", 16)


class Kept:
    """A cache in a folder, a model, and the lines of warning."""

    def __init__(self, bundle: Path, folder: Path, most: int = 1 << 30) -> None:
        self.lines: list[str] = []
        self.folder = PrefixFolder(folder, most, self.lines.append)
        self.model = Model(bundle)
        described = manifest.read(bundle).data["model"]
        self.cache = PrefixCache(self.folder, bundle / "manifest.json", described, self.model, Options())
        self.session = Session(self.model)

    def save(self, ids: Sequence[int]) -> None:
        self.session.reset()
        self.session.eval(ids)
        self.cache.save(self.session)

    def close(self) -> None:
        self.session.close()
        self.model.close()
        self.folder.close()


@pytest.mark.usefixtures("short")
def test_the_text_that_shares_most_is_found(tiny_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    kept = Kept(tiny_bundle("llama"), tmp_path / "cache")
    texts = [IDS[:100], IDS[:80] + IDS[200:240], IDS[100:180]]
    for text in texts:
        kept.save(text)
    assert sorted(saved_tokens(p) for p in sessions(tmp_path / "cache")) == sorted(texts)
    for text in texts:
        kept.session.reset()
        prompt = [*text, 3]
        assert kept.cache.gain(kept.session, prompt)
        kept.cache.load(kept.session, prompt)
        assert kept.session.tokens == text
        np.testing.assert_array_equal(kept.session.logits([3]), _logits(kept.model, prompt))
    kept.session.reset()
    assert not kept.cache.gain(kept.session, [*IDS[:14], 3, 4, 5])
    kept.close()


def _logits(model: Model, prompt: Sequence[int]) -> F32:
    with Session(model) as session:
        session.eval(prompt[:-1])
        return session.logits(prompt[-1:])


@pytest.mark.usefixtures("short")
def test_a_longer_text_takes_the_place_of_its_beginning(tiny_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    kept = Kept(tiny_bundle("llama"), tmp_path / "cache")
    for count in (40, 100, 110):  # ten tokens more are not worth another file
        kept.save(IDS[:count])
    assert [len(saved_tokens(p)) for p in sessions(tmp_path / "cache")] == [100]
    kept.close()


@pytest.mark.usefixtures("short")
def test_models_with_windows_take_only_what_a_prompt_begins_with(
    tiny_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    kept = Kept(tiny_bundle("gemma3"), tmp_path / "cache")
    for count in (40, 100):
        kept.save(IDS[:count])
    assert len(sessions(tmp_path / "cache")) == 2
    kept.session.reset()
    prompt = [*IDS[:80], 5, 6, 7]
    kept.cache.load(kept.session, prompt)
    assert kept.session.tokens == IDS[:40]
    got = kept.session.logits(prompt[40:])[-1:]
    np.testing.assert_allclose(got, _logits(kept.model, prompt), atol=1e-5)
    kept.close()


def test_the_least_recently_used_go_first(tiny_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    kept = Kept(tiny_bundle("llama"), tmp_path / "cache")
    for begin in (0, 100, 200):
        kept.save(IDS[begin : begin + 80])
    size = sessions(tmp_path / "cache")[0].stat().st_size
    kept.session.reset()
    kept.cache.load(kept.session, [*IDS[:80], 3])  # now the second is the oldest
    kept.close()
    kept = Kept(tiny_bundle("llama"), tmp_path / "cache", most=3 * size)
    kept.save(IDS[300:380])
    begins = {saved_tokens(p)[0] for p in sessions(tmp_path / "cache")}
    assert begins == {IDS[0], IDS[200], IDS[300]}
    assert kept.folder.counts.bytes == 3 * size
    kept.session.reset()
    assert not kept.cache.gain(kept.session, [*IDS[100:180], 3])
    kept.close()
    kept = Kept(tiny_bundle("llama"), tmp_path / "cache", most=size - 1)
    assert not sessions(tmp_path / "cache")
    kept.save(IDS[:80])  # larger than the limit: it does not stay
    assert not sessions(tmp_path / "cache")
    kept.close()


def test_damaged_files_go_and_foreign_ones_stay(tiny_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    kept = Kept(tiny_bundle("llama"), folder)
    for begin in (0, 100, 200, 300):
        kept.save(IDS[begin : begin + 80])
    kept.close()
    by_begin = {saved_tokens(p)[0]: p for p in sessions(folder)}
    short, forged, late = (by_begin[IDS[i]] for i in (0, 100, 200))
    short.write_bytes(short.read_bytes()[:50])
    forged.write_bytes(by_begin[IDS[300]].read_bytes())  # whole, but of other tokens
    data = late.read_bytes()
    late.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # its tokens are right, its values are not
    strangers = [folder / "notes.txt", folder / f"{'0' * 16}-{'0' * 32}.session"]
    strangers[0].write_text("mine")
    strangers[1].symlink_to(tmp_path / "elsewhere")
    (folder / (late.name + ".partial")).write_text("half")
    (tmp_path / "elsewhere").write_text("mine too")

    kept = Kept(tiny_bundle("llama"), folder)
    assert not short.exists()
    assert not forged.exists()
    assert len([line for line in kept.lines if "removes such files" in line]) == 1
    assert len([line for line in kept.lines if "was not made by the prefix cache" in line]) == 1
    assert not (folder / (late.name + ".partial")).exists()
    kept.session.reset()
    kept.cache.load(kept.session, [*IDS[200:280], 3])
    assert kept.session.position == 0
    assert not late.exists()
    assert all(s.is_symlink() or s.read_text() == "mine" for s in strangers)
    assert (tmp_path / "elsewhere").read_text() == "mine too"
    kept.close()


def test_another_model_or_cache_type_finds_nothing(tiny_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    kept = Kept(tiny_bundle("llama"), tmp_path / "cache")
    kept.save(IDS[:100])
    kept.close()
    other = Kept(tiny_bundle("qwen3"), tmp_path / "cache")
    assert not other.cache.gain(other.session, [*IDS[:100], 3])
    assert len(sessions(tmp_path / "cache")) == 1
    other.close()


def test_folders_of_others_and_second_servers_are_refused(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(RuntimeFailure, match="has other files in it"):
        PrefixFolder(tmp_path / "home", 1 << 20, print)
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["letter"]
    with pytest.raises(RuntimeFailure, match="cannot be the prefix cache"):
        PrefixFolder(tmp_path / "home" / "letter", 1 << 20, print)
    first = PrefixFolder(tmp_path / "cache", 1 << 20, print)
    with pytest.raises(RuntimeFailure, match="another server uses"):
        PrefixFolder(tmp_path / "cache", 1 << 20, print)
    first.close()
    PrefixFolder(tmp_path / "cache", 1 << 20, print).close()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / LOCK).symlink_to(tmp_path / "home" / "letter")
    with pytest.raises(RuntimeFailure, match="cannot be the prefix cache"):
        PrefixFolder(tmp_path / "linked", 1 << 20, print)
    for arguments, line in (
        (["--prefix-cache-size", "1G"], "--prefix-cache DIR"),
        (["--prefix-cache", str(tmp_path / "home")], "has other files in it"),
        (["--prefix-cache", str(tmp_path / "cache"), "--prefix-cache-size", "0"], "less than one byte"),
    ):
        assert main(["serve", str(demo), *arguments]) == 1
        assert line in capsys.readouterr().err


def test_a_folder_that_takes_nothing_is_one_warning(tiny_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    kept = Kept(tiny_bundle("llama"), tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "moved")
    for begin in (0, 100):
        kept.save(IDS[begin : begin + 80])
    assert len(kept.lines) == 1
    assert "texts are not kept while that is so" in kept.lines[0]
    kept.close()


def test_saved_tokens_read_only_whole_files(tiny_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "session"
    with Session(tiny_bundle("llama")) as session:
        session.save(path)
        assert saved_tokens(path) == []
        session.eval(IDS[:20])
        session.save(path)
    assert saved_tokens(path) == IDS[:20]
    data = path.read_bytes()
    for cut in (0, 63, 64, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(BundleError):
            saved_tokens(path)
    for at in (8, 24, 40, 70, 80):  # manifest, position, checkpoints, checksum of the tokens, tokens
        path.write_bytes(data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :])
        with pytest.raises(BundleError):
            saved_tokens(path)
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(BundleError):
        saved_tokens(path)
    with pytest.raises(BundleError, match="cannot be opened"):
        saved_tokens(tmp_path / "none")
