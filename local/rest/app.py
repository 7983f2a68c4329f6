"""The routes of `/rest/v1`, and what becomes of whatever goes wrong behind them."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from local.rest import errors
from local.rest.asked import Asked, read_request, request_settings, requested_schema
from local.rest.call_plans import call_methods, plan_call
from local.rest.callers import ANONYMOUS, Caller, Callers
from local.rest.catalog import Catalog
from local.rest.errors import ApiError
from local.rest.explaining import Explanation
from local.rest.openapi import ROOT_METHODS, plan_description
from local.rest.relation_plans import plan_relation, relation_methods
from local.rest.schema_cache import SchemaCache
from local.rest.transaction import Plan, run
from local.services import PLATFORM_PASSWORD, Part, Services

_RELATION_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_CALL_METHODS = ("GET", "HEAD", "POST")
_log = logging.getLogger(__name__)
Planner = Callable[[Catalog, Asked], Plan]
Methods = Callable[[Catalog, str, str], tuple[str, ...]]  # of what a schema has under a name


def build(services: Services) -> Part:
    """The REST part of a stack."""
    api = _RestApi(services)
    return Part(
        routes=[
            Route("/rest/v1/rpc/{name}", _Endpoint(api.call)),
            Route("/rest/v1/{name}", _Endpoint(api.relation)),
            Route("/rest/v1/{path:path}", _Endpoint(api.elsewhere)),
        ],
        start=api.cache.start,
        stop=api.cache.stop,
    )


class _RestApi:
    def __init__(self, services: Services) -> None:
        conninfo = make_conninfo(services.database_url, user="authenticator", password=PLATFORM_PASSWORD)
        self.cache = SchemaCache(services.pool, conninfo)
        self._pool = services.pool
        self._callers = Callers(services.keys)

    async def relation(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return await self._allow(request, relation_methods)
        if request.method not in _RELATION_METHODS:
            raise ApiError(405, "PGRST117", f"Unsupported HTTP method: {request.method}")
        return await self._serve(request, plan_relation, is_call=False)

    async def call(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            return await self._allow(request, call_methods)
        if request.method not in _CALL_METHODS:
            raise ApiError(405, "PGRST101", f"Cannot use the {request.method} method on RPC")
        return await self._serve(request, plan_call, is_call=True)

    async def elsewhere(self, request: Request) -> Response:
        if request.path_params["path"]:
            raise ApiError(404, "PGRST125", "Invalid path specified in request URL")
        if request.method == "OPTIONS":
            return Response(None, 200, {"Allow": ",".join(("OPTIONS", *ROOT_METHODS))})
        if request.method not in ROOT_METHODS:
            raise ApiError(405, "PGRST117", f"Unsupported HTTP method: {request.method}")
        url = urlsplit(str(request.url.replace(path=request.url.path.rstrip("/"))))
        return await self._serve(request, partial(plan_description, url=url), is_call=True)

    async def _serve(self, request: Request, planner: Planner, *, is_call: bool) -> Response:
        caller = self._callers.identify(request.headers.get("authorization"))
        config = self.cache.catalog.config
        asked = await read_request(request, config, name=request.path_params.get("name", ""), is_call=is_call)
        explanation = Explanation.asked_for(asked.accept) if config.allows_plans and asked.name else None
        if explanation is not None:
            asked = replace(asked, accept=explanation.answer)
        async with self._refusing(caller):
            plan = await self.cache.resolve(lambda catalog: planner(catalog, asked))
            plan = plan if explanation is None else explanation.of(plan)
            role_settings = self.cache.catalog.role_settings.get(caller.role, {})
            settings = request_settings(request, asked, caller, config, [*role_settings.items()])
            rolls_back = asked.preferences.rolls_back
            rolls_back = config.rolls_back if rolls_back is None else rolls_back
            return await run(
                self._pool,
                plan,
                settings=[*settings, *plan.settings],
                pre_request=config.pre_request,
                ending=b"rollback" if rolls_back else b"commit",
            )

    async def _allow(self, request: Request, methods: Methods) -> Response:
        schema = requested_schema(request, self.cache.catalog.config)
        name = request.path_params["name"]
        async with self._refusing(ANONYMOUS):
            allowed = await self.cache.resolve(lambda catalog: methods(catalog, schema, name))
        return Response(None, 200, {"Allow": ",".join(("OPTIONS", *allowed))})

    @asynccontextmanager
    async def _refusing(self, caller: Caller) -> AsyncGenerator[None]:
        """Turn what the database or its pool raises into what the caller reads."""
        try:
            yield
        except PoolTimeout as exc:
            raise ApiError(504, "PGRST003", "Timed out acquiring connection from connection pool.") from exc
        except psycopg.Error as exc:
            raise await self._refusal(exc, caller) from exc

    async def _refusal(self, exc: psycopg.Error, caller: Caller) -> ApiError:
        refusal = errors.of_database(exc, role=caller.role)
        if refusal.status == 503:
            # After a restart of the server every idle connection is dead; one request finds out for all.
            _log.warning("rest.connection_lost error=%s", type(exc).__name__)
            await self._pool.check()
        return refusal


class _Endpoint:
    """An ASGI application of its own, so that the router leaves every method to us."""

    def __init__(self, serve: Callable[[Request], Awaitable[Response]]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._serve(Request(scope, receive, send))
        except ApiError as exc:
            response = exc.response()
        await response(scope, receive, send)
