"""A hook of mkdocs: links that leave docs/ (to the source) become plain text, as the site has no source."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:runtime|examples|CONTRIBUTING)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with each page's text."""
    return OUTSIDE.sub(r"\1", markdown)
