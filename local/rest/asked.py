"""A request, read and understood as far as that goes without the database."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request

from local.rest import errors
from local.rest.body import read_body
from local.rest.callers import Caller
from local.rest.media import Media, negotiate
from local.rest.parameters import apply_range_header, parse_parameters
from local.rest.preferences import NO_PREFERENCES, Preferences
from local.rest.query import Query
from local.rest.schema_cache import EXPOSED_SCHEMAS
from local.rest.transaction import Setting

_READS = frozenset({"GET", "HEAD"})
_EXTRA_SEARCH_PATH = ("extensions",)


@dataclass(frozen=True, slots=True)
class Asked:
    """`name` is the relation or function; `content_type` has no parameters."""

    method: str
    schema: str
    name: str
    query: Query
    preferences: Preferences
    media: Media
    content_type: str
    body: bytes

    @property
    def is_head(self) -> bool:
        return self.method == "HEAD"

    @property
    def is_read(self) -> bool:
        return self.method in _READS

    def form(self) -> list[tuple[str, str]]:
        return parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True)


async def read_request(request: Request, *, name: str, is_call: bool) -> Asked:
    """Read `request`.

    Raises:
        ApiError: a schema, format, parameter, preference or body that cannot be served.
    """
    method, headers = request.method, request.headers
    is_read = method in _READS
    schema = _schema(headers.get("accept-profile" if is_read else "content-profile"))
    if "%00" in request.url.query:
        raise errors.zero_byte()
    preferred = headers.getlist("prefer")
    query = parse_parameters(parse_qsl(request.url.query, keep_blank_values=True), is_call=is_call and is_read)
    if method == "GET" and "range" in headers:
        apply_range_header(query.root, headers["range"])
    return Asked(
        method=method,
        schema=schema,
        name=name,
        query=query,
        preferences=Preferences.parse(preferred) if preferred else NO_PREFERENCES,
        media=negotiate(headers.get("accept")),
        content_type=headers.get("content-type", "application/json").partition(";")[0].strip().lower(),
        body=b"" if is_read else await read_body(request),
    )


def _schema(profile: str | None) -> str:
    if profile is None:
        return EXPOSED_SCHEMAS[0]
    if profile not in EXPOSED_SCHEMAS:
        raise errors.ApiError(
            406,
            "PGRST106",
            f"Invalid schema: {profile}",
            hint=f"Only the following schemas are exposed: {', '.join(EXPOSED_SCHEMAS)}",
        )
    return profile


def request_settings(request: Request, asked: Asked, caller: Caller, role_settings: list[Setting]) -> list[Setting]:
    """What SQL may read about the request, in PostgREST's order; `role` takes the caller's rights on."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        if name != "cookie":
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    search_path = ", ".join(f'"{schema}"' for schema in (asked.schema, *_EXTRA_SEARCH_PATH))
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
