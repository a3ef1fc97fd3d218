"""A headless Chromium, driven by the WebDriver protocol over plain HTTP."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import free_port

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # how the protocol names elements (W3C WebDriver, section 12)
ENTER, ESCAPE = "\ue007", "\ue00c"


class Browser:
    """One window. Elements are named by CSS selectors; commands wait for nothing, but `wait` does."""

    def __init__(self, profile: Path, *switches: str) -> None:
        driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
        if driver is None or chromium is None:
            pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
        port = free_port()
        self.process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        arguments = [
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", f"--user-data-dir={profile}",
            *switches,
        ]  # fmt: skip
        options = {"binary": chromium, "args": arguments}
        logs = {"browser": "ALL"}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}
        end = time.monotonic() + 60
        while True:
            try:
                found = self._ask("POST", "/session", {"capabilities": wanted})
                break
            except OSError:
                assert time.monotonic() < end, "the browser did not begin"
                time.sleep(0.1)
        self.base += f"/session/{found['sessionId']}"

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=120) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def go(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body returns; a promise's value when it is there."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, *arguments: Any) -> Any:
        """Runs a script until what it returns is true."""
        end = time.monotonic() + 60
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, (
                f"never true: {script}; the page says: {self.run('return document.body.innerText')}"
            )
            time.sleep(0.05)
        return found

    def _element(self, selector: str) -> str:
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self._element(selector)}/click", {})

    def write(self, selector: str, text: str) -> None:
        self._ask("POST", f"/element/{self._element(selector)}/value", {"text": text})

    def resize(self, width: int, height: int) -> None:
        self._ask("POST", "/window/rect", {"width": width, "height": height})

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def complaints(self) -> list[str]:
        """What the console has of errors since the last call; refused policies are among them."""
        return [e["message"] for e in self._ask("POST", "/se/log", {"type": "browser"}) if e["level"] == "SEVERE"]

    def close(self) -> None:
        try:
            self._ask("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(30)
