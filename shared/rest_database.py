"""The database over PostgREST: calls and reads with one token, which decides what row-level security shows.

A function makes one for each request, with its caller's token; the connections behind it are shared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, cast

import httpx
from postgrest import APIError, AsyncPostgrestClient, AsyncRequestBuilder

from shared.connections import http_client
from shared.errors import AppError, DatabaseUnavailable, error_for
from shared.runs.models import Json, JsonObject

_HTTP_STATUS = re.compile(r"[1-5]\d\d")  # what postgrest-py puts for a code when a proxy answered
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_UNKNOWN = "Whether the call took effect is not known: look first, or repeat it with the same Idempotency-Key"


class Query(Protocol):
    """A query of postgrest-py, ready to be sent."""

    async def execute(self) -> Answer: ...


class Answer(Protocol):
    """What postgrest-py makes of the response."""

    @property
    def data(self) -> object: ...


class RestDatabase:
    """Implements `shared.database.Database`, and reads."""

    def __init__(self, rest_url: str, *, apikey: str, token: str | None = None) -> None:
        """`token` is a user's access token; without one the key itself speaks, which only a secret key may."""
        # No retries of the library's own: they wait whole seconds, and the caller decides better what a retry is worth.
        self._client = AsyncPostgrestClient(
            rest_url,
            headers={"apikey": apikey, "Authorization": f"Bearer {token or apikey}"},
            http_client=http_client(),
            retry_enabled=False,
        )

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """Call `public.<function>` with named arguments and return its JSON answer.

        Raises:
            AppError: the function refused (see `shared.errors.error_for`).
            DatabaseUnavailable: no answer; whether the call committed is unknown.
        """
        # postgrest-py declares text arguments and sends any JSON.
        return await _data(self._client.rpc(function, cast("dict[str, str]", dict(arguments))))

    def table(self, name: str) -> AsyncRequestBuilder:
        """Begin a query of a public table; `rows` sends it."""
        return self._client.from_(name)

    async def rows(self, query: Query) -> list[JsonObject]:
        """Send a query and return its rows.

        Raises:
            AppError: PostgREST refused.
            DatabaseUnavailable: no answer.
        """
        return cast("list[JsonObject]", await _data(query))

    async def close(self) -> None:
        """Nothing: the connections belong to the event loop."""


async def _data(query: Query) -> Json:
    try:
        return cast("Json", (await query.execute()).data)
    except APIError as exc:
        raise _error(exc) from exc
    except httpx.InvalidURL as exc:
        raise AppError("The request to the database could not be made") from exc
    except httpx.HTTPError as exc:
        hint = None if isinstance(exc, _NOT_SENT) else _UNKNOWN
        raise DatabaseUnavailable("The database does not answer", details=type(exc).__name__, hint=hint) from exc
    except (TypeError, ValueError) as exc:
        raise AppError("What was sent or answered is no JSON") from exc


def _error(exc: APIError) -> AppError:
    code = exc.code or ""
    if _HTTP_STATUS.fullmatch(code):
        if int(code) >= 500 or code == "429":
            return DatabaseUnavailable("The database is not available", details=f"HTTP {code}", hint=_UNKNOWN)
        return AppError(f"The database refused the call (HTTP {code})")
    return error_for(code, exc.message or "", details=_text(exc.details), hint=exc.hint)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
