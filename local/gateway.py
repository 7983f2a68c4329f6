"""The one port of the stack: rest, auth, realtime, storage and functions behind Supabase's paths.

Two things happen to every request before a part sees it: the API key is swapped for the JWT it stands for, and the
answer gets the CORS headers that a browser needs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local import auth, functions, realtime, rest, storage
from local.config import StackConfig
from local.face import face_routes
from local.keys import Keys
from local.services import Services
from local.status_reader import StatusReader

# Links from mails and identity providers: no client of ours made them, so no key is in them.
_WITHOUT_KEY = ("/auth/v1/verify", "/auth/v1/callback", "/auth/v1/authorize")
_PREFLIGHT = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET,POST,PATCH,PUT,DELETE,OPTIONS",
    "access-control-allow-headers": (
        "authorization, x-client-info, apikey, content-type, x-retry-count, traceparent, tracestate, baggage, "
        "accept-profile, content-profile, prefer, range, x-supabase-api-version, idempotency-key, last-event-id, "
        "x-upsert, x-metadata, cache-control, content-encoding"
    ),
    "access-control-max-age": "86400",
}
_EXPOSED = (
    "Content-Encoding, Content-Location, Content-Range, Content-Type, Date, Location, Server, Transfer-Encoding, "
    "Range-Unit, X-Total-Count, Link, X-Supabase-Api-Version, X-Request-Id, Accept-Ranges, Cache-Control, "
    "Content-Disposition, Content-Length, ETag, Last-Modified"
)


def build_gateway(
    config: StackConfig, database_url: str, *, functions_apps: Mapping[str, ASGIApp] | None = None
) -> Starlette:
    """Build the gateway over a database that has the platform and the migrations.

    The config must name the real port: tokens and functions carry the URL made of it. `functions_apps` replaces the
    project's functions, by name.
    """
    services, outbox = Services.of(config, database_url), auth.Outbox()
    parts = {
        "rest": rest.build(services),
        "auth": auth.build(services, outbox),
        "realtime": realtime.build(services),
        "storage": storage.build(services),
        "functions": functions.build(services, functions_apps),
    }

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(services.lifespan())
            for part in parts.values():
                stack.push_async_callback(part.stop)
                await part.start()
            yield

    app = Starlette(
        routes=[
            *face_routes(StatusReader(services, parts, outbox)),
            Route("/health", _health),
            *(route for part in parts.values() for route in part.routes),
        ],
        middleware=[Middleware(CorsHeaders), Middleware(KeySwap, keys=services.keys)],
        exception_handlers={404: _no_route, ClientDisconnect: _cut_off},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # none of Supabase's servers does, and a redirected POST is a surprise
    return app


class KeySwap:
    """Replaces `sb_` keys by the JWTs they stand for: in Authorization, and in the query of a websocket.

    A plain request may bear its key in the query too, where no header can be set (`/rest/v1/?apikey=...`). It goes no
    further than this, or it would be a filter to REST; a function's query is its own.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(_WITHOUT_KEY):
            in_query = None
            if not scope["path"].startswith(functions.PREFIX):
                in_query, scope = _key_taken(scope)
            headers = Headers(scope=scope)
            given = headers.get("authorization")
            authorization = self._keys.authorization_for(headers.get("apikey") or in_query, given)
            if authorization is not None and authorization != given:
                kept = [pair for pair in scope["headers"] if pair[0] != b"authorization"]
                scope = {**scope, "headers": [*kept, (b"authorization", authorization.encode("latin-1"))]}
        elif scope["type"] == "websocket":
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            swapped = [(name, self._keys.token_of(value) if name == "apikey" else value) for name, value in query]
            scope = {**scope, "query_string": urlencode(swapped).encode("latin-1")}
        await self._app(scope, receive, send)


def _key_taken(scope: Scope) -> tuple[str | None, Scope]:
    """The API key in the query, and the request without it. The rest of the query stays as it was written."""
    pairs = scope["query_string"].split(b"&")
    kept = [pair for pair in pairs if pair.partition(b"=")[0] != b"apikey"]
    if len(kept) == len(pairs):
        return None, scope
    given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("apikey")
    return given, {**scope, "query_string": b"&".join(kept)}


class CorsHeaders:
    """Answers preflights, and adds to other answers the headers a part did not set itself.

    A function answers its own preflight, as on Supabase, and PostgREST the OPTIONS that is no preflight.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and not _answers_options(scope):
            await _preflight(scope)(scope, receive, send)
            return

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("access-control-allow-origin", "*")
                headers.setdefault("access-control-expose-headers", _EXPOSED)
            await send(message)

        await self._app(scope, receive, send_with_cors)


def _preflight(scope: Scope) -> Response:
    """Allow what is asked for: an application may send headers of its own (`global.headers` of the clients)."""
    asked = Headers(scope=scope).get("access-control-request-headers")
    named = {"access-control-allow-headers": asked, "vary": "Access-Control-Request-Headers"} if asked else {}
    return Response(status_code=204, headers={**_PREFLIGHT, **named})


def _answers_options(scope: Scope) -> bool:
    if scope["path"].startswith("/rest/v1/"):
        return "access-control-request-method" not in Headers(scope=scope)
    return scope["path"].startswith(functions.PREFIX)


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _cut_off(_request: Request, _error: Exception) -> Response:
    """Answer nobody: the client went in the middle of its body, which is no error of ours to log."""
    return Response(status_code=400)


async def _no_route(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"message": "no Route matched with those values"}, 404)
