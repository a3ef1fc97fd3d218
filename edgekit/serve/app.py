"""The server's addresses: what each takes and gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from edgekit.errors import BudgetError, EdgekitError, RuntimeFailure
from edgekit.generate.tool_calls import new_id
from edgekit.serve import fields
from edgekit.serve.bundles import Bundle
from edgekit.serve.calls import Calls
from edgekit.serve.chat_api import chat_body, chat_chunks, collect, error_body
from edgekit.serve.embedding_api import embed, rerank
from edgekit.serve.errors import ApiError, api_error, bad
from edgekit.serve.guard import Guard
from edgekit.serve.messages import read_messages
from edgekit.serve.metrics import prometheus, stats_body
from edgekit.serve.page import page_file
from edgekit.serve.requests import TextRequest, check_writes, find_bundle, read_chat, read_text, render
from edgekit.serve.responses_api import end_status, read_response, response_body, response_events
from edgekit.serve.scheduler import Scheduler
from edgekit.serve.text_api import text_body, text_chunks
from edgekit.serve.tools import read_tools
from edgekit.sizes import parse_bytes
from edgekit.version import __version__

Handler = Callable[[Request], Awaitable[Response]]
Chunks = Callable[[TextRequest, Calls], AsyncIterator[Mapping[str, Any]]]
WATCH_SECONDS = 0.1  # between looks whether a client that waits for a whole answer is still there


class Server:
    """Handlers of requests, on one scheduler."""

    def __init__(self, scheduler: Scheduler, guard: Guard) -> None:
        """`scheduler` computes; `guard` says who may ask."""
        self.scheduler, self.guard = scheduler, guard
        self.known = scheduler.bundles.known

    def app(self) -> Starlette:
        """The application."""
        routes = [
            self._route("/", self.page, "GET"),
            self._route("/page/{name}", self.page, "GET"),
            self._route("/stats", self.stats, "GET"),
            self._route("/budget", self.budget, "POST"),
            self._route("/health", self.health, "GET"),
            self._route("/metrics", self.metrics, "GET"),
            self._route("/v1/models", self.models, "GET"),
            self._route("/v1/models/{name}", self.model, "GET"),
            self._route("/v1/chat/completions", self.chat, "POST"),
            self._route("/v1/completions", self.text, "POST"),
            self._route("/v1/responses", self.responses, "POST"),
            self._route("/v1/embeddings", self.embeddings, "POST"),
            self._route("/v1/rerank", self.rerank, "POST"),
            self._route("/tokenize", self.tokenize, "POST"),
            self._route("/detokenize", self.detokenize, "POST"),
            self._route("/apply-template", self.apply_template, "POST"),
        ]

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            await run_in_threadpool(self.scheduler.close)

        handlers: dict[Any, Any] = {HTTPException: self._http_error}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)

    def _route(self, path: str, handler: Handler, method: str) -> Route:
        """A handler behind the guard; errors become answers."""

        async def guarded(request: Request) -> Response:
            try:
                self.guard.check(request)
                response = preflight() if request.method == "OPTIONS" else await handler(request)
            except EdgekitError as error:
                found = api_error(error)
                response = JSONResponse(found.body(), found.status, found.headers)
            origin = request.headers.get("origin")
            if origin is not None and self.guard.allows(origin, request.headers.get("host", "")):
                response.headers["Access-Control-Allow-Origin"] = origin
                response.headers["Vary"] = "Origin"
            self.scheduler.counters.requests[response.status_code] += 1
            return response

        return Route(path, guarded, methods=[method, "OPTIONS"])

    async def _http_error(self, request: Request, error: HTTPException) -> Response:
        message = f"there is nothing at {request.method} {request.url.path[:80]}"
        return JSONResponse(ApiError(error.status_code, message, "not_found").body(), error.status_code)

    async def _body(self, request: Request) -> dict[str, Any]:
        return await run_in_threadpool(fields.parse_json, await self.guard.body(request))

    # --- text ----------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""

        async def whole(asked: TextRequest, calls: Calls) -> dict[str, Any]:
            return chat_body(asked, await collect(asked, calls))

        return await self._answer(request, read_chat, whole, chat_chunks)

    async def text(self, request: Request) -> Response:
        """POST /v1/completions"""
        return await self._answer(request, read_text, text_body, text_chunks)

    async def responses(self, request: Request) -> Response:
        """POST /v1/responses"""

        async def whole(asked: TextRequest, calls: Calls) -> dict[str, Any]:
            (choice,) = await collect(asked, calls)
            return response_body(asked, choice, new_id("resp"), end_status(choice))

        return await self._answer(request, read_response, whole, response_events, named=True)

    async def _answer(
        self,
        request: Request,
        read: Callable[[Bundle, Mapping[str, Any]], TextRequest],
        whole: Callable[[TextRequest, Calls], Awaitable[dict[str, Any]]],
        chunks: Chunks,
        named: bool = False,
    ) -> Response:
        """Reads a request and answers it, at once or as a stream; a client that leaves is not computed for."""
        body = await self._body(request)
        bundle = find_bundle(self.known, body, "logits")
        check_writes(bundle)
        asked = await run_in_threadpool(read, bundle, body)
        calls = Calls(self.scheduler, asked.jobs)
        if asked.stream:
            return _EventStream(calls, _events(asked, calls, chunks, named))
        async with calls:
            return JSONResponse(await _unless_left(request, whole(asked, calls)))

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        body = await self._body(request)
        return JSONResponse(await _unless_left(request, embed(self.scheduler, body)))

    async def rerank(self, request: Request) -> Response:
        """POST /v1/rerank: {"query": TEXT, "documents": [TEXT], "top_n": N}"""
        body = await self._body(request)
        return JSONResponse(await _unless_left(request, rerank(self.scheduler, body)))

    # --- the rest ------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """GET /health"""
        return JSONResponse({"status": "ok", "version": __version__})

    async def metrics(self, request: Request) -> Response:
        """GET /metrics"""
        text = prometheus(self.scheduler.counters, self.scheduler.snapshot)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def page(self, request: Request) -> Response:
        """GET / and its files"""
        return page_file(request.path_params.get("name", "index.html"))

    async def stats(self, request: Request) -> Response:
        """GET /stats: what the page plots"""
        body = stats_body(self.scheduler.counters, self.scheduler.snapshot)
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    async def budget(self, request: Request) -> Response:
        """POST /budget: {"ram": BYTES or as "2G"}; 0: no limit"""
        ram = (await self._body(request)).get("ram")
        if isinstance(ram, bool) or not isinstance(ram, int | str):
            raise bad("'ram' must be a number of bytes, or a text such as 2G; 0 for no limit", "ram")
        try:
            size = parse_bytes(ram) if ram != 0 else 0
            await asyncio.wrap_future(self.scheduler.set_budget(size))
        except (BudgetError, RuntimeFailure) as error:
            if isinstance(error, ApiError):
                raise
            raise bad(str(error), "ram") from error
        return await self.stats(request)

    async def models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [_model(b) for b in self.known.values()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME"""
        return JSONResponse(_model(find_bundle(self.known, {"model": request.path_params["name"]})))

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: {"content": TEXT, "add_special": false}"""
        body = await self._body(request)
        bundle = find_bundle(self.known, body)
        text, special = fields.checked_text(body.get("content"), "content"), fields.flag(body, "add_special")
        return JSONResponse({"tokens": await run_in_threadpool(bundle.tokenizer.encode, text, special)})

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize: {"tokens": [ID]}"""
        body = await self._body(request)
        bundle, tokens = find_bundle(self.known, body), body.get("tokens")
        good = isinstance(tokens, list) and all(
            isinstance(t, int) and not isinstance(t, bool) and 0 <= t < bundle.vocab_size for t in tokens
        )
        if not isinstance(tokens, list) or not good:
            raise bad(f"'tokens' must be a list of ids below {bundle.vocab_size}", "tokens")
        return JSONResponse({"content": await run_in_threadpool(bundle.tokenizer.decode, tokens)})

    async def apply_template(self, request: Request) -> Response:
        """POST /apply-template: {"messages": [...]}"""
        body = await self._body(request)
        bundle, messages = find_bundle(self.known, body), read_messages(body.get("messages"))
        prompt = await run_in_threadpool(render, bundle, messages, read_tools(body))
        return JSONResponse({"prompt": prompt.text})


def _model(bundle: Bundle) -> dict[str, Any]:
    return {
        "id": bundle.id,
        "object": "model",
        "created": bundle.created,
        "owned_by": "edgekit",
        "context_length": bundle.context,
        "output": bundle.output,
    }


def preflight() -> Response:
    """The answer to a browser that asks whether it may ask."""
    allowed = {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
    }
    return Response(status_code=204, headers=allowed)


async def _unless_left(request: Request, answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """An answer, which is given up when the client leaves."""
    waiting = asyncio.ensure_future(_as_coroutine(answer))
    try:
        while not (await asyncio.wait([waiting], timeout=WATCH_SECONDS))[0]:
            if await request.is_disconnected():
                raise ApiError(499, "the client left", "disconnected")
        return await waiting
    finally:
        waiting.cancel()


async def _as_coroutine(waiting: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return await waiting


class _EventStream(StreamingResponse):
    """Server-sent events. However the response ends, its jobs end with it: a generator that is left while an event is
    being sent would only be closed when garbage is collected."""

    def __init__(self, calls: Calls, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._calls:
            await super().__call__(scope, receive, send)


async def _events(asked: TextRequest, calls: Calls, chunks: Chunks, named: bool) -> AsyncIterator[str]:
    """The events of an answer; `named` ones have their type as a name."""
    try:
        async for chunk in chunks(asked, calls):
            yield _event(chunk, chunk["type"] if named else "")
    except EdgekitError as error:
        body = error_body(error)
        yield _event({"type": "error", **body} if named else body, "error" if named else "")
    if not named:
        yield "data: [DONE]\n\n"


def _event(data: Mapping[str, Any], name: str) -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
