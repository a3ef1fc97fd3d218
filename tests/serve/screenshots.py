"""python -m tests.serve.screenshots BUNDLE: the pictures of the page in docs/images, with a chat model's answers."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.serve.browser import ENTER, Browser
from tests.serve.conftest import Running

QUESTIONS = (
    "Hello! Who are you?",
    "Tell me a story about a cat who wanted to fly.",
    "What did her friend say?",
    "Tell me another story, about a boat.",
)
IMAGES = ROOT / "docs" / "images"
IDLE = "return document.getElementById('stop').hidden"


def main() -> None:
    """Chats, then takes a wide light picture and a narrow dark one."""
    server = Running(Path(sys.argv[1]), "--ram", "2500K", "--parallel", 1)
    with tempfile.TemporaryDirectory() as profile:
        for name, size, dark in (("page", (1280, 800), False), ("page_narrow", (480, 800), True)):
            browser = Browser(Path(profile) / name, *(["--force-dark-mode"] if dark else []))
            browser.resize(*size)
            browser.go(f"{server.url}/")
            browser.wait("return document.getElementById('model').value")
            for question in QUESTIONS:
                browser.write("#input", question + ENTER)
                browser.wait("return !document.getElementById('stop').hidden")
                browser.wait(IDLE)
                time.sleep(2)  # so that the plots, which look every second, have something to show
            (IMAGES / f"{name}.png").write_bytes(browser.picture())
            browser.close()
    server.stop()


if __name__ == "__main__":
    main()
