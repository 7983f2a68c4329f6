"""A function as an ASGI application: one request in, one JSON answer out, the same on every host.

The path below the function's name is ignored, because hosts mount it differently. Every answer, errors too, carries
the CORS headers and X-Request-Id. This is the one place that turns an exception into a response: what is not an
`AppError` becomes a 500 that tells nothing, and a log line that tells all.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Final, Generic, Literal, cast
from uuid import uuid4

import orjson
from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.api_keys.scopes import Scope as KeyScope
from shared.auth import Caller, refuse_keys_in_url, verifier_for
from shared.errors import AppError, ErrorBody, MethodNotAllowed, RetryLater, Unauthenticated
from shared.http.body import parse_body, parse_query, read_body
from shared.http.call import Answer, Body, Call
from shared.logs import Log
from shared.redaction import redact_json
from shared.rest_database import RestDatabase
from shared.settings import Settings, current_settings

Method = Literal["GET", "POST"]
Callers = Literal["user", "service", "anyone"]

# Supabase's list (its edge functions' `corsHeaders`), then ours.
_ALLOWED_HEADERS: Final = (
    "authorization, x-client-info, apikey, content-type, x-retry-count, traceparent, tracestate, baggage, "
    "x-region, idempotency-key, last-event-id, x-request-id"
)
_EXPOSED_HEADERS: Final = "Allow, Retry-After, WWW-Authenticate, X-Next-Cursor, X-Request-Id"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_log = Log(__name__)


@dataclass(frozen=True)
class Endpoint(Generic[Body]):
    """One function at /functions/v1/<slug>.

    Attributes:
        accepts: Shape of the JSON body, and of a GET's query. Bytes: the body as it came, for who checks a signature.
        callers: Who may call: signed-in users, services with the secret key, or anyone: the function checks.
        replies: What each status answers with, for the OpenAPI document.
        description: Markdown for the same.
        headers: Header parameters for the same, name to meaning.
        key_scope: What an API key needs for any call; None where the database alone decides, call by call.
    """

    function: Callable[[Call[Body]], Awaitable[Answer]]
    slug: str
    accepts: TypeAdapter[Body]
    methods: tuple[Method, ...]
    callers: Callers
    replies: Mapping[int, type[BaseModel] | UnionType]
    description: str
    headers: Mapping[str, str]
    key_scope: KeyScope | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http":
            await self._serve(Request(scope, receive), send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "This endpoint speaks HTTP"})

    async def _serve(self, request: Request, send: Send) -> None:
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        try:
            response = await self._answer(request, request_id)
        except AppError as exc:
            if exc.status >= 500:
                _log.error("function.failed", exc=exc, slug=self.slug, request_id=request_id, code=exc.code)
            response = self._refusal(exc)
        except Exception as exc:  # noqa: BLE001 - the one place where any failure becomes an answer
            _log.error("function.crashed", exc=exc, slug=self.slug, request_id=request_id)
            response = self._refusal(AppError(f"Something went wrong; the log tells more by request id {request_id}"))
        response.headers["X-Request-Id"] = request_id
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        try:
            await response(request.scope, request.receive, send)
        except Exception as exc:
            # A stream broke after its headers were sent: the host closes the connection.
            _log.error("function.stream_broke", exc=exc, slug=self.slug, request_id=request_id)
            raise

    async def _answer(self, request: Request, request_id: str) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=self._preflight())
        if request.method not in self.methods:
            raise MethodNotAllowed(f"{self.slug} takes {' and '.join(self.methods)}, not {request.method}")
        refuse_keys_in_url(request.scope["query_string"])
        settings = current_settings()
        caller, database = await self._admit(request.headers, settings)
        if request.method == "GET":
            body = parse_query(request.query_params, self.accepts)
        else:
            body = _checked(await read_body(request), self.accepts)
        answer = await self.function(Call(body, database, request.headers, request_id, settings, request.scope, caller))
        return answer if isinstance(answer, Response) else _json(answer[0], answer[1])

    async def _admit(self, headers: Mapping[str, str], settings: Settings) -> tuple[Caller | None, RestDatabase]:
        """Who calls, and the database as they may see it. User endpoints never touch the secret key."""
        verifier = verifier_for(settings)
        if self.callers == "service":
            verifier.service(headers)
            return None, RestDatabase(settings.rest_url, apikey=settings.secret_key)
        if self.callers == "anyone":
            return None, RestDatabase(settings.rest_url, apikey=settings.publishable_key)
        caller = await verifier.user(headers)
        if self.key_scope is not None:
            caller.require_scope(self.key_scope)
        return caller, RestDatabase(settings.rest_url, apikey=settings.publishable_key, token=caller.token)

    def _refusal(self, exc: AppError) -> Response:
        # A message may repeat what a caller or a provider sent, and either may have put a key there.
        response = _json(exc.status, redact_json(exc.to_body()))
        if isinstance(exc, RetryLater) and exc.retry_after_seconds is not None:
            response.headers["Retry-After"] = str(math.ceil(exc.retry_after_seconds))
        if isinstance(exc, Unauthenticated):
            response.headers["WWW-Authenticate"] = "Bearer"
        if isinstance(exc, MethodNotAllowed):
            response.headers["Allow"] = ", ".join((*self.methods, "OPTIONS"))
        return response

    def _preflight(self) -> dict[str, str]:
        return {
            "Access-Control-Allow-Methods": ", ".join((*self.methods, "OPTIONS")),
            "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
            "Access-Control-Max-Age": "86400",
        }


def endpoint(
    function: Callable[[Call[Body]], Awaitable[Answer]],
    *,
    slug: str,
    accepts: TypeAdapter[Body],
    replies: Mapping[int, type[BaseModel] | UnionType],
    methods: tuple[Method, ...] = ("POST",),
    callers: Callers = "user",
    headers: Mapping[str, str] | None = None,
    key_scope: KeyScope | None = None,
) -> Endpoint[Body]:
    """Make a function's application. Its module's docstring describes it in the OpenAPI document."""
    description = sys.modules[function.__module__].__doc__ or ""
    return Endpoint(function, slug, accepts, methods, callers, replies, description, headers or {}, key_scope)


def _checked(raw: bytes, accepts: TypeAdapter[Body]) -> Body:
    # Nothing of a signed body is read before its signature is proven.
    return cast("Body", raw) if accepts.core_schema["type"] == "bytes" else parse_body(raw, accepts)


def _json(status: int, body: BaseModel | ErrorBody) -> Response:
    content = body.model_dump_json(exclude_unset=True) if isinstance(body, BaseModel) else orjson.dumps(body)
    return Response(content, status, media_type="application/json")


async def _lifespan(receive: Receive, send: Send) -> None:
    """Nothing is opened before the first request, so there is nothing to start or stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
