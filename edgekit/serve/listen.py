"""Listening: uvicorn with limits for clients that are slow on purpose."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.errors import MissingPackageError, RuntimeFailure
from edgekit.serve.loopback import is_loopback

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from uvicorn import Config

    from edgekit.serve.guard import Guard
    from edgekit.serve.scheduler import Scheduler

HEADER_SECONDS = 15.0  # for the headers of a request
KEEP_SECONDS = 30  # for the next request on a connection
MOST_CONNECTIONS = 512


def check_host(host: str, allow_remote: bool) -> None:
    """Refuses to be reached from other machines unless that is asked for.

    Raises:
        RuntimeFailure: the address is not of this machine alone.
    """
    if not is_loopback(host) and not allow_remote:
        raise RuntimeFailure(
            f"{host} can be reached from other machines; give --allow-remote to allow that, best with --api-key"
        )


def make_config(app: Starlette, host: str, port: int) -> Config:
    """How uvicorn is to serve.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingPackageError("the server needs uvicorn; install it with: pip install 'edgekit[serve]'") from error
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_protocol(),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=64 << 10,
    )


def listen(app: Starlette, host: str, port: int, end_jobs: Callable[[], None]) -> None:
    """Serves until Ctrl-C; `end_jobs` is called then, so that answers that are under way end and clients hear of it.

    Raises:
        MissingPackageError: uvicorn is not installed.
        RuntimeFailure: the address is in use.
    """
    config = make_config(app, host, port)
    from uvicorn import Server

    class EndingServer(Server):
        """A server that does not wait for long answers when it is to end."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await asyncio.to_thread(end_jobs)
            await super().shutdown(sockets)

    server = EndingServer(config)
    try:
        server.run()
    except SystemExit as error:  # uvicorn's way to say that it could not begin
        raise RuntimeFailure(
            f"cannot listen at {host}:{port}; is the port in use? choose another with --port"
        ) from error


def _protocol() -> Any:
    """HTTP/1.1 whose clients must send their headers in time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class TimedProtocol(H11Protocol):
        """Closes connections on which the headers of a request do not become whole."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(HEADER_SECONDS, self._check_headers)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            elif waiting and self._timer is None:
                self._timer = self.loop.call_later(HEADER_SECONDS, self._check_headers)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _check_headers(self) -> None:
            self._timer = None
            if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
                self.transport.close()

    return TimedProtocol


def load_app() -> Callable[[Scheduler, Guard], Starlette]:
    """What makes the application.

    Raises:
        MissingPackageError: starlette is not installed.
    """
    try:
        from edgekit.serve.app import Server
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("starlette"):
            raise
        raise MissingPackageError(
            "the server needs starlette; install it with: pip install 'edgekit[serve]'"
        ) from error
    return lambda scheduler, guard: Server(scheduler, guard).app()
