"""What stands before every request: key, origin, size and time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from edgekit.serve.errors import ApiError
from edgekit.serve.loopback import is_loopback

OPEN_PATHS = ("/health", "/")  # without a key
OPEN_FOLDER = "/page/"  # of the page, which asks its user for the key


@dataclass(frozen=True)
class Guard:
    """What a server lets in.

    Attributes:
        api_key: that requests must bring; "" for none.
        origins: of web pages that may ask, beside those that the server gives itself; "*" for all.
        loopback_only: whether the server listens to this machine only, so that other names for it are an attack.
        body_bytes: most bytes of a body.
        body_seconds: most time that a body may take to arrive.
    """

    api_key: str = ""
    origins: Sequence[str] = ()
    loopback_only: bool = True
    body_bytes: int = 4 << 20
    body_seconds: float = 30.0

    def check(self, request: Request) -> None:
        """Refuses a request by its headers.

        Raises:
            ApiError: it must not come in.
        """
        host = request.headers.get("host", "")
        if self.loopback_only and not is_loopback(_name(host)):
            # A page elsewhere that resolves its own name to this machine sends that name (DNS rebinding).
            raise ApiError(403, "the Host header does not name this machine; use localhost or 127.0.0.1", "wrong_host")
        origin = request.headers.get("origin")
        if origin is not None and not self.allows(origin, host):
            raise ApiError(403, "web pages of this origin may not ask; see --cors-origin", "wrong_origin")
        path = request.url.path
        is_open = path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
        if self.api_key and not is_open and request.method != "OPTIONS":
            given = request.headers.get("authorization", "")
            kind, _, key = given.partition(" ")
            wanted = self.api_key.encode()
            if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode("utf-8", "replace"), wanted):
                raise ApiError(
                    401, "the API key is missing or wrong; send 'Authorization: Bearer KEY'", "invalid_api_key"
                )

    def allows(self, origin: str, host: str) -> bool:
        """Whether a web page may ask: one of this server, or one that it was told of."""
        return "*" in self.origins or origin in self.origins or urlsplit(origin).netloc == host != ""

    async def body(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            ApiError: it is too large, or takes too long.
        """
        close = {"Connection": "close"}  # what is left of the body is not read
        too_large = ApiError(413, f"the body has more than {self.body_bytes} bytes", "body_too_large", headers=close)
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self.body_bytes:
            raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size > self.body_bytes:
                        raise too_large
                    parts.append(part)
        except TimeoutError as error:
            message = f"the body took longer than {self.body_seconds:g} seconds"
            raise ApiError(408, message, "timeout", headers=close) from error
        except ClientDisconnect as error:
            raise ApiError(400, "the client left before its body was whole", "disconnected") from error
        return b"".join(parts)


def _name(host: str) -> str:
    """The name of a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
