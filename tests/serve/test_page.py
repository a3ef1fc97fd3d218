"""The page at /, in a real browser on a real server."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.browser import ENTER, ESCAPE, Browser
from tests.serve.conftest import RAM, Running

FILES = ("app.js", "api.js", "markdown.js", "plots.js", "store.js", "style.css", "icon.svg")
ATTACKS = [
    "<img src=x onerror=window.hit=1>",
    "<script>window.hit=1</script>",
    "[click](javascript:window.hit=1)",
    "[click](JaVaScRiPt:window.hit=1)",
    "[click](data:text/html,<script>window.hit=1</script>)",
    "[<img src=x onerror=window.hit=1>](https://example.org)",
    "**<svg onload=window.hit=1>**",
    "`<iframe srcdoc='<script>top.hit=1</script>'>`",
    "```html\n<img src=x onerror=window.hit=1>\n```",
    "> - <details open ontoggle=window.hit=1>",
    '[a](https://example.org/"onmouseover="window.hit=1)',
    "![x](https://example.org/x.png)",
]
RENDER = """
return import('/page/markdown.js').then(({ render }) => {
  const box = document.createElement('div');
  box.append(...render(arguments[0]));
  document.body.append(box);
  const found = {
    html: box.innerHTML,
    names: [...box.querySelectorAll('*')].map((e) => e.localName),
    links: [...box.querySelectorAll('a')].map((e) => e.getAttribute('href')),
    attributes: [...box.querySelectorAll('*')].flatMap((e) => e.getAttributeNames()),
    text: box.textContent,
  };
  box.remove();
  return found;
})
"""
ANSWERED = """
return document.getElementById('stop').hidden && document.querySelector('.message.assistant .body')?.innerText
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(window: Browser, server: Running) -> Browser:
    """The page as someone sees it who comes for the first time."""
    window.go(f"{server.url}/")
    window.run("localStorage.clear(); sessionStorage.clear()")
    window.go(f"{server.url}/")
    window.wait("return document.getElementById('model').value")
    window.complaints()
    return window


def test_every_file_is_served_with_a_strict_policy(server: Running) -> None:
    for path in ("/", *(f"/page/{name}" for name in FILES)):
        with urllib.request.urlopen(server.url + path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            text = response.read().decode()
        hosts = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
        assert not hosts
        assert "innerHTML" not in text


@pytest.mark.parametrize("name", ["..%2fapp.py", "nothing.js", "%2e%2e", "index.html%00"])
def test_other_files_are_not_served(server: Running, name: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get(f"/page/{name}")
    assert caught.value.code == 404


def test_an_answer_streams_and_survives_a_reload(page: Browser, server: Running) -> None:
    page.write("#input", "Once upon a time" + ENTER)
    page.wait("return document.querySelector('.message.assistant .body')?.innerText")
    text = page.wait(ANSWERED)
    assert page.run("return document.querySelectorAll('.message').length") == 2
    page.go(f"{server.url}/")
    assert page.wait(ANSWERED) == text
    assert page.run("return document.querySelector('#conversations button').textContent") == "Once upon a time"
    assert page.complaints() == []


def test_escape_stops_an_answer_and_the_server_stops_too(page: Browser, server: Running) -> None:
    page.write("#input", "Tell me a long story" + ENTER)
    page.wait("return document.querySelector('.message.assistant .body')?.innerText")
    page.write("#input", ESCAPE)
    page.wait("return document.getElementById('stop').hidden")
    server.wait_for("busy", 0)
    assert page.run("return document.getElementById('problem').hidden")


def test_a_message_is_edited_and_an_answer_regenerated(page: Browser) -> None:
    page.write("#input", "One" + ENTER)
    page.wait(ANSWERED)
    page.click(".message.user .actions button")
    page.run("document.querySelector('.message.user textarea').value = ''")
    page.write(".message.user textarea", "Another beginning")
    page.click(".message.user .actions button")
    page.wait(ANSWERED)
    assert page.run("return document.querySelector('.message.user .body').innerText") == "Another beginning"
    page.click(".message.assistant .actions button")
    page.wait(ANSWERED)
    assert page.run("return document.querySelectorAll('.message').length") == 2


def test_conversations_are_kept_apart_and_removed(page: Browser) -> None:
    for text in ("first", "second"):
        page.click("#new")
        page.write("#input", text + ENTER)
        page.wait(ANSWERED)
    names = "return [...document.querySelectorAll('#conversations li button:first-child')].map((b) => b.textContent)"
    assert page.run(names) == ["second", "first"]
    page.click("#conversations li:last-child button:first-child")
    assert page.run("return document.querySelector('.message.user .body').innerText") == "first"
    page.click("#conversations li:last-child button:last-child")
    assert page.run(names) == ["second"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_never_becomes_live_html(page: Browser, attack: str) -> None:
    found = page.run(RENDER, attack)
    allowed = {"p", "br", "a", "strong", "em", "code", "pre", "ul", "ol", "li", "blockquote"}
    assert set(found["names"]) <= allowed
    assert set(found["attributes"]) <= {"href", "target", "rel"}
    assert all(link.startswith("https://") for link in found["links"])
    page.write("#input", attack.replace("\n", " ") + ENTER)
    page.wait("return document.querySelector('.message.user .body')")
    page.write("#input", ESCAPE)
    assert page.run("return window.hit === undefined")
    assert page.complaints() == []


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a **b** *c* `d*e*`", "<p>a <strong>b</strong> <em>c</em> <code>d*e*</code></p>"),
        ("# T\ntext\nmore", "<h3>T</h3><p>text<br>more</p>"),
        ("- a\n- b\n  - c", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul>"),
        ("2. a\n3. b", '<ol start="2"><li>a</li><li>b</li></ol>'),
        ("```py\na < b\n\n# c\n```\nd", "<pre><code>a &lt; b\n\n# c</code></pre><p>d</p>"),
        ("```\nnot closed", "<pre><code>not closed</code></pre>"),
        ("> q\n> r", "<blockquote><p>q<br>r</p></blockquote>"),
        ("2 * 3 * 4 and a_b_c", "<p>2 * 3 * 4 and a_b_c</p>"),
        ("---", "<hr>"),
    ],
)
def test_markdown_becomes_elements(page: Browser, text: str, html: str) -> None:
    assert page.run(RENDER, text)["html"] == html


@pytest.mark.parametrize("text", ["*" * 20_000, "[" * 20_000, "> " * 5_000, "**a " * 5_000, "`" * 9_999, "- " * 5_000])
def test_no_text_takes_long_to_render(page: Browser, text: str) -> None:
    assert page.run(RENDER, text)["text"] is not None


def test_the_slider_changes_the_budget_and_the_text_says_so(page: Browser, server: Running) -> None:
    page.write("#input", "A story" + ENTER)
    page.wait("return !document.getElementById('budget').disabled")
    before = server.metric("budget_bytes")
    try:
        page.run(
            "const slider = document.getElementById('budget');"
            "slider.value = (Number(slider.min) + Number(slider.value)) / 2;"
            "slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change'))"
        )
        page.wait("return document.getElementById('budget-text').textContent.includes('MiB')")
        wanted = page.run("return Number(document.getElementById('budget').value)")
        page.wait("return document.getElementById('problem').hidden")
        status, stats = server.post("/budget", {"ram": round(wanted)})
        assert status == 200
        assert stats["models"][0]["memory"] <= stats["models"][0]["budget"] == round(wanted) < before
        page.wait(ANSWERED)
    finally:
        server.post("/budget", {"ram": RAM})
    assert page.wait("return document.querySelector('.plot output').textContent.length")


@pytest.mark.parametrize("body", [{"ram": 1000}, {"ram": -1}, {"ram": "much"}, {"ram": None}, {"ram": True}, {}])
def test_a_budget_that_cannot_be_is_refused_and_changes_nothing(server: Running, body: dict[str, object]) -> None:
    server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
    before = server.metric("budget_bytes")
    status, answer = server.post("/budget", body)
    assert status == 400
    assert answer["error"]["param"] == "ram"
    assert server.metric("budget_bytes") == before


def test_other_pages_may_not_change_the_budget(server: Running) -> None:
    status, _ = server.post("/budget", {"ram": 0}, {"Origin": "https://example.org"})
    assert status == 403


def test_a_key_is_asked_for_and_the_page_is_there_without(window: Browser, demo: Path) -> None:
    running = Running(demo, "--ram", RAM, "--parallel", 1, "--api-key", "sesame")
    try:
        window.go(f"{running.url}/")
        window.wait("return !document.getElementById('key-field').hidden")
        assert running.post("/budget", {"ram": 0})[0] == 401
        window.write("#key", "sesame" + ENTER)
        window.wait("return document.getElementById('model').value && document.getElementById('key-field').hidden")
    finally:
        running.stop()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off_on_narrow_and_wide_screens(page: Browser, width: int) -> None:
    page.resize(width, 800)
    assert page.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert page.run("return document.getElementById('input').getBoundingClientRect().bottom <= window.innerHeight")


def test_everything_that_can_be_used_has_a_name(page: Browser) -> None:
    page.write("#input", "Hello" + ENTER)
    page.wait(ANSWERED)
    nameless = page.run(
        "return [...document.querySelectorAll('button, input, textarea, select')].filter((e) =>"
        " !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"
    )
    assert nameless == []
