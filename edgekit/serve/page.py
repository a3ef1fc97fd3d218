"""The page at /: its files, and what a browser lets it do."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from starlette.responses import Response

from edgekit.serve.errors import ApiError

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Nothing but this server's own files: no inline script or style, no other host, no frame around it.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@cache
def _contents() -> dict[str, bytes]:
    folder = files("edgekit.serve") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def page_file(name: str) -> Response:
    """A file of the page.

    Raises:
        ApiError: there is none of that name.
    """
    found = _contents().get(name)
    if found is None:
        raise ApiError(404, f"the page has no file '{name[:80]}'", "not_found")
    return Response(found, media_type=TYPES["." + name.rsplit(".", 1)[-1]], headers=HEADERS)
