"""Every refusal of `/rest/v1`, as PostgREST words it.

An answer has PostgREST's four keys and its `Proxy-Status` header. What the database raises keeps its own
SQLSTATE as `code`; the HTTP status follows from PostgREST's table, so a code that the table does not know
(our own `RUNxx`) is a 400 with the code kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

import orjson
import psycopg
from starlette.responses import Response

JSON_TYPE = "application/json; charset=utf-8"

_STATUS_BY_SQLSTATE = {
    "23503": 409,
    "23505": 409,
    "25006": 405,
    "42883": 404,
    "42P01": 404,
    "42P17": 500,
    "53400": 500,
    "57P01": 503,
    "P0001": 400,
}
_STATUS_BY_CLASS = {
    "08": 503,
    "09": 500,
    "0L": 403,
    "0P": 403,
    "21": 500,
    "25": 500,
    "28": 403,
    "2D": 500,
    "38": 500,
    "39": 500,
    "3B": 500,
    "40": 500,
    "53": 503,
    "54": 500,
    "55": 500,
    "57": 500,
    "58": 500,
    "F0": 500,
    "HV": 500,
    "P0": 500,
    "XX": 500,
}
_MESSAGE_FORM = (
    "MESSAGE must be a JSON object with obligatory keys: 'code', 'message' and optional keys: 'details', 'hint'."
)
_DETAIL_FORM = "DETAIL must be a JSON object with obligatory keys: 'status', 'headers' and optional key: 'status_text'."
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_UNKNOWN_ROLE = re.compile(r'role ".*" does not exist')


class ApiError(Exception):
    """One refusal: the HTTP status, PostgREST's four keys, and the headers that go with it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: str | list[dict[str, str]] | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {"code": self.code, "message": self.message, "details": self.details, "hint": self.hint}
        headers = {"Proxy-Status": f"PostgREST; error={self.code}", **self.headers}
        return without_forbidden_body(Response(orjson.dumps(body), self.status, headers, media_type=JSON_TYPE))


def header_of(name: object, value: object) -> tuple[str, str]:
    """A header that SQL asks for, its text as the UTF-8 that the wire has.

    Raises:
        ValueError: it cannot be a header, or would begin another one.
    """
    if not (isinstance(name, str) and isinstance(value, str)):
        raise ValueError("a header is a name and a text")  # noqa: TRY004 - the caller knows it by its value
    if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
        raise ValueError("a character that no header may have")
    return name, value.encode().decode("latin-1")


def without_forbidden_body(response: Response) -> Response:
    """Take the body off where the status says there is none: the client would read it as its next answer."""
    if response.status_code in {204, 304}:
        response.body = b""
        for name in ("content-length", "content-type"):
            if name in response.headers:
                del response.headers[name]
    return response


def not_parsed(what: str, *, column: int, details: str) -> ApiError:
    return ApiError(400, "PGRST100", f'"failed to parse {what}" (line 1, column {column})', details=details)


def bad_body(message: str = "Empty or invalid json") -> ApiError:
    return ApiError(400, "PGRST102", message)


def bad_content_type(content_type: str) -> ApiError:
    return bad_body(f"Content-Type not acceptable: {content_type}")


def bad_range(details: str, *, content_range: str | None = None) -> ApiError:
    headers = None if content_range is None else {"Content-Range": content_range}
    return ApiError(416, "PGRST103", "Requested range not satisfiable", details=details, headers=headers)


def not_embedded(name: str) -> ApiError:
    return ApiError(
        400,
        "PGRST108",
        f"'{name}' is not an embedded resource in this request",
        hint=f"Verify that '{name}' is included in the 'select' query parameter.",
    )


def embedded_twice(alias: str) -> ApiError:
    """PostgREST's joins have such names, and PostgreSQL refuses the second of one."""
    return ApiError(400, "42712", f'table name "{alias}" specified more than once')


def not_implemented(details: str) -> ApiError:
    return ApiError(400, "PGRST127", "Feature not implemented", details=details)


def aggregates_are_off() -> ApiError:
    return ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")


def not_one_row(count: int) -> ApiError:
    return ApiError(
        406,
        "PGRST116",
        "Cannot coerce the result to a single JSON object",
        details=f"The result contains {count} rows",
    )


def not_authenticated(code: str, message: str, *, details: str | None = None) -> ApiError:
    challenge = f'Bearer error="invalid_token", error_description="{message}"'
    return ApiError(401, code, message, details=details, headers={"WWW-Authenticate": challenge})


def unknown_column(column: str, table: str) -> ApiError:
    return ApiError(400, "PGRST204", f"Could not find the '{column}' column of '{table}' in the schema cache")


def unfiltered_write(verb: str) -> ApiError:
    """What hosted Supabase's `safeupdate` says, which it preloads for the API roles."""
    return ApiError(400, "21000", f"{verb} requires a WHERE clause")


def database_unreachable() -> ApiError:
    return ApiError(503, "PGRST001", "Database client error. Retrying the connection.")


def zero_byte() -> ApiError:
    return ApiError(400, "22021", 'invalid byte sequence for encoding "UTF8": 0x00')


def of_database(exc: psycopg.Error, *, role: str) -> ApiError:
    """Word a database error as PostgREST does. `role` is the role that the request ran as."""
    code, message = exc.sqlstate, exc.diag.message_primary
    if isinstance(exc, psycopg.DataError) and code is None:
        return zero_byte()
    if code is None or message is None:
        return database_unreachable()
    if code == "PGRST":
        return _raised_as_json(message, exc.diag.message_detail)
    status = _status_of(code, message, role)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return ApiError(status, code, message, details=exc.diag.message_detail, hint=exc.diag.message_hint, headers=headers)


def _status_of(code: str, message: str, role: str) -> int:
    if code.startswith("PT"):
        return int(code[2:]) if code[2:].isdigit() and 200 <= int(code[2:]) <= 599 else 500
    if code == "42501":
        return 401 if role == "anon" else 403
    if code == "22023" and _UNKNOWN_ROLE.search(message):
        return 401
    if code == "21000" and message.endswith("requires a WHERE clause"):
        return 400
    return _STATUS_BY_SQLSTATE.get(code) or _STATUS_BY_CLASS.get(code[:2], 400)


def _raised_as_json(message: str, detail: str | None) -> ApiError:
    """`raise sqlstate 'PGRST'` carries the whole answer: the body in MESSAGE, status and headers in DETAIL."""
    try:
        body = _object(message)
        code, text = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):
        return _unreadable(f"Invalid JSON value for MESSAGE: '{message}'", _MESSAGE_FORM)
    if detail is None:
        return _unreadable("DETAIL is missing in the RAISE statement", _DETAIL_FORM)
    try:
        answer = _object(detail)
        status = int(answer["status"])
        headers = dict(header_of(name, value) for name, value in _mapping(answer["headers"]).items())
    except (ValueError, KeyError, TypeError):
        return _unreadable(f"Invalid JSON value for DETAIL: '{detail}'", _DETAIL_FORM)
    if not 200 <= status <= 599:
        return _unreadable(f"Invalid JSON value for DETAIL: '{detail}'", _DETAIL_FORM)
    return ApiError(
        status, code, text, details=_text(body.get("details")), hint=_text(body.get("hint")), headers=headers
    )


def _unreadable(details: str, hint: str) -> ApiError:
    message = "Could not parse JSON in the \"RAISE SQLSTATE 'PGRST'\" error"
    return ApiError(500, "PGRST121", message, details=details, hint=hint)


def _object(text: str) -> dict[str, Any]:
    return _mapping(json.loads(text))


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not a JSON object")
    return cast("dict[str, Any]", value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
