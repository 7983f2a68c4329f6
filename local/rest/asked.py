"""A request, read and understood as far as that goes without the database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request

from local.rest import errors
from local.rest.body import read_body
from local.rest.callers import Caller
from local.rest.catalog import Config
from local.rest.media import JSON, Media, negotiate
from local.rest.parameters import apply_range_header, parse_parameters
from local.rest.preferences import NO_PREFERENCES, Preferences
from local.rest.query import Query
from local.rest.transaction import Setting

_READS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Asked:
    """`name` is the relation or function; `content_type` has no parameters; `media` is chosen by `negotiated`.
    `profile` is the schema where the answer has to name it.
    """

    method: str
    schema: str
    name: str
    is_call: bool
    query: Query
    query_string: str
    preferences: Preferences
    accept: str | None
    content_type: str
    body: bytes
    profile: str | None
    media: Media = JSON

    @property
    def is_head(self) -> bool:
        return self.method == "HEAD"

    @property
    def is_read(self) -> bool:
        return self.method in _READS

    def negotiated(self, *, own: str | None = None) -> Self:
        """The same request with its format chosen; `own` is one that only the function asked for has."""
        return replace(self, media=negotiate(self.accept, own=own))

    def form(self) -> list[tuple[str, str]]:
        return parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True)


async def read_request(request: Request, config: Config, *, name: str, is_call: bool) -> Asked:
    """Read `request`.

    Raises:
        ApiError: a schema, parameter, preference or body that cannot be served.
    """
    method, headers = request.method, request.headers
    is_read = method in _READS
    schema = requested_schema(request, config)
    if "%00" in request.url.query:
        raise errors.zero_byte()
    preferred = headers.getlist("prefer")
    query_string = request.url.query
    query = parse_parameters(_pairs(query_string), is_call=is_call and is_read)
    if method == "GET" and "range" in headers:
        apply_range_header(query.root, headers["range"])
    return Asked(
        method=method,
        schema=schema,
        name=name,
        is_call=is_call,
        query=query,
        query_string=query_string,
        preferences=Preferences.parse(preferred, allows_tx=config.allows_tx) if preferred else NO_PREFERENCES,
        accept=headers.get("accept"),
        content_type=headers.get("content-type", "application/json").partition(";")[0].strip().lower(),
        body=b"" if is_read else await read_body(request),
        profile=schema if len(config.schemas) > 1 else None,
    )


def _pairs(query: str) -> list[tuple[str, str]]:
    """The decoded parameters; one without `=` says nothing."""
    given = "&".join(part for part in query.split("&") if "=" in part)
    return parse_qsl(given, keep_blank_values=True)


def requested_schema(request: Request, config: Config) -> str:
    """The schema that the request names, or the first that is exposed.

    Raises:
        ApiError: PGRST106 if it is not exposed.
    """
    exposed = config.schemas
    profile = request.headers.get("accept-profile" if request.method in _READS else "content-profile")
    if profile is None:
        return exposed[0]
    if profile not in exposed:
        raise errors.ApiError(
            406,
            "PGRST106",
            f"Invalid schema: {profile}",
            hint=f"Only the following schemas are exposed: {', '.join(exposed)}",
        )
    return profile


def request_settings(
    request: Request, asked: Asked, caller: Caller, config: Config, role_settings: list[Setting]
) -> list[Setting]:
    """What SQL may read about the request, in PostgREST's order; `role` takes the caller's rights on."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        if name != "cookie":
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    schemas = (asked.schema, *config.extra_search_path)  # one twice is no harm, and as PostgREST has it
    search_path = ", ".join('"' + schema.replace('"', '""') + '"' for schema in schemas)
    settings = [
        ("search_path", search_path),
        *role_settings,
        ("role", caller.role),
        ("request.jwt.claims", caller.claims),
        ("request.method", asked.method),
        ("request.path", request.url.path.removeprefix("/rest/v1")),
        ("request.headers", orjson.dumps(headers).decode()),
        ("request.cookies", orjson.dumps(request.cookies).decode()),
    ]
    if asked.preferences.timezone is not None:
        settings.append(("timezone", asked.preferences.timezone))
    return settings
