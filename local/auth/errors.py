"""What `/auth/v1` answers when it refuses, in the two shapes that GoTrue has.

A client that sends `X-Supabase-Api-Version: 2024-01-01` gets `{"code": "<name>", "message"}` and must find the
header echoed, else it will not read the code; anybody else gets the older `{"code": <status>, "error_code", "msg"}`.
The names are GoTrue's own, since applications branch on them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

API_VERSION_HEADER = "X-Supabase-Api-Version"
NAMED_CODES_VERSION = "2024-01-01"  # the only version besides the initial one

Endpoint = Callable[[Request], Awaitable[Response]]

_VERSION = re.compile(r"2\d{3}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_log = logging.getLogger(__name__)


class AuthError(Exception):
    """A refusal that the caller may read."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def extra(self) -> dict[str, Any]:
        """What the body says besides code and message."""
        return {}


class WeakPassword(AuthError):  # noqa: N818 - reads as what it says
    """The password is too easy; `reasons` are GoTrue's: length, characters, pwned."""

    def __init__(self, message: str, *, reasons: list[str]) -> None:
        super().__init__(422, "weak_password", message)
        self.reasons = reasons

    def extra(self) -> dict[str, Any]:
        return {"weak_password": {"reasons": self.reasons}}


def invalid(message: str) -> AuthError:
    """The request is understood and wrong."""
    return AuthError(400, "validation_failed", message)


def refusal(request: Request, error: AuthError) -> Response:
    """Render `error` in the shape the request asks for."""
    headers = {"x-sb-error-code": error.code}
    asked = request.headers.get(API_VERSION_HEADER, "")
    if _VERSION.fullmatch(asked) and asked >= NAMED_CODES_VERSION:
        headers[API_VERSION_HEADER] = NAMED_CODES_VERSION
        body: dict[str, Any] = {"code": error.code, "message": error.message}
    else:
        body = {"code": error.status, "error_code": error.code, "msg": error.message}
    return JSONResponse(body | error.extra(), error.status, headers)


def answering_errors(endpoint: Endpoint) -> Endpoint:
    """Turn every way an endpoint can fail into a refusal; the last is logged, and says nothing of the cause."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AuthError as exc:
            return refusal(request, exc)
        except (psycopg.OperationalError, PoolTimeout):
            _log.exception("auth.database_unavailable path=%s", request.url.path)
            return refusal(request, AuthError(503, "unexpected_failure", "The database does not answer"))
        except psycopg.DataError as exc:
            # NUL in a string, NaN in metadata, a ban past the year 9999: JSON can say what no column can hold.
            _log.warning("auth.value_refused path=%s reason=%s", request.url.path, exc)
            return refusal(request, invalid("The request holds a value that cannot be stored"))
        except psycopg.Error as exc:
            if isinstance(exc, psycopg.IntegrityError) and exc.diag.schema_name == "auth":
                # What the endpoint checked beforehand, changed by somebody else meanwhile.
                return refusal(request, AuthError(409, "conflict", "Another request changed this at the same time"))
            _log.exception("auth.database_error path=%s", request.url.path)
            message = "Database error saving user: mostly a trigger on auth.users; the log of the stack says more"
            return refusal(request, AuthError(500, "unexpected_failure", message))

    return answer
