"""Links of the README and of docs/ lead somewhere, and the site builds without a warning."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    titles = [line.lstrip("#").strip().lower() for line in text.splitlines() if re.match(r"#+ ", line)]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title)) for title in titles}


def broken_links(page: Path) -> list[str]:
    """Links of a page, within the project, that lead nowhere."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    broken = []
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[fine](#a-title) [none](#other) [gone](gone.md)\n")
    assert broken_links(page) == ["#other", "gone.md"]


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the site needs edgekit[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Offline: nothing is loaded from another host.
    pages = [page.read_text() for page in (tmp_path / "site").rglob("*.html")]
    assert pages
    loaded = [
        u for page in pages for u in re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]+)"', page)
    ]
    assert loaded == []
