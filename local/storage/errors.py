"""Every refusal of `/storage/v1`, as Supabase's Storage words it.

The status that a client branches on stands in the body (`statusCode`); the HTTP status is 400 for nearly all of
them, as on Supabase. supabase-py reads `error`, supabase-js reads `code`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps

import psycopg
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

Endpoint = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger(__name__)


class StorageError(Exception):
    """One refusal. `http_status` is what goes on the wire, 400 unless the fault is the server's."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        error: str | None = None,
        http_status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.error = error or code
        self.http_status = http_status or (500 if status == 500 else 400)
        self.headers = dict(headers or {})

    def response(self) -> Response:
        body = {"statusCode": str(self.status), "code": self.code, "error": self.error, "message": self.message}
        return JSONResponse(body, self.http_status, self.headers)


def invalid_request(message: str) -> StorageError:
    return StorageError(400, "InvalidRequest", message)


def access_denied(message: str) -> StorageError:
    return StorageError(403, "AccessDenied", message, error="Unauthorized")


def no_such_bucket() -> StorageError:
    return StorageError(404, "NoSuchBucket", "Bucket not found", error="Bucket not found")


def no_such_key() -> StorageError:
    return StorageError(404, "NoSuchKey", "Object not found", error="not_found")


def invalid_key(key: str) -> StorageError:
    return StorageError(400, "InvalidKey", f"Invalid key: {key}")


def invalid_bucket_name() -> StorageError:
    return StorageError(400, "InvalidBucketName", "Bucket name invalid", error="Invalid Input")


def bucket_not_empty() -> StorageError:
    return StorageError(409, "ResourceNotEmpty", "The bucket you tried to delete is not empty")


def too_large(entity: str = "object") -> StorageError:
    message = f"The {entity} exceeded the maximum allowed size"
    return StorageError(413, "EntityTooLarge", message, error="Payload too large")


def invalid_mime_type(mime_type: str) -> StorageError:
    message = f"mime type {mime_type} is not supported"
    return StorageError(415, "InvalidMimeType", message, error="invalid_mime_type")


def invalid_token(message: str) -> StorageError:
    return StorageError(400, "InvalidJWT", message)


def invalid_signature(message: str) -> StorageError:
    return StorageError(400, "InvalidSignature", message)


def not_supported(feature: str) -> StorageError:
    return StorageError(409, "NotSupported", f"The embedded Storage does not support {feature}")


def feature_not_enabled() -> StorageError:
    return StorageError(403, "FeatureNotEnabled", "feature not enabled for this tenant", http_status=403)


def precondition_failed() -> StorageError:
    message = "At least one of the preconditions you specified did not hold"
    return StorageError(412, "PreconditionFailed", message, http_status=412)


def not_satisfiable(size: int) -> StorageError:
    headers = {"Content-Range": f"bytes */{size}"}
    message = "The requested range is not satisfiable"
    return StorageError(416, "InvalidRange", message, http_status=416, headers=headers)


def database_timeout() -> StorageError:
    return StorageError(544, "DatabaseTimeout", "The connection to the database timed out", http_status=544)


def database_unreachable() -> StorageError:
    return StorageError(503, "DatabaseConnectionLimit", "The database cannot be reached", http_status=503)


_DUPLICATES = {"buckets": "BucketAlreadyExists", "objects": "KeyAlreadyExists"}


def of_database(exc: psycopg.Error) -> StorageError:
    """Word a database error as Storage does. What a policy or a project's trigger raised keeps its own message."""
    code, message = exc.sqlstate or "", exc.diag.message_primary or ""
    match code:
        case "42501":
            is_policy = "row-level security" in message
            refusal = access_denied("new row violates row-level security policy" if is_policy else message)
        case "23505":
            duplicate = _DUPLICATES.get(exc.diag.table_name or "", "ResourceAlreadyExists")
            refusal = StorageError(409, duplicate, "The resource already exists", error="Duplicate")
        case "23503":
            refusal = StorageError(404, "InvalidRequest", "The related resource does not exist")
        case "57014":
            refusal = database_timeout()
        case "P0001":
            refusal = StorageError(400, "DatabaseError", message)
        case _ if code.startswith("22") or isinstance(exc, psycopg.DataError):
            refusal = StorageError(400, "InvalidParameter", message or "Invalid value")
        case "" if isinstance(exc, psycopg.OperationalError):
            refusal = database_unreachable()
        case _ if code.startswith(("08", "57P")):
            refusal = database_unreachable()
        case _:
            refusal = StorageError(500, "DatabaseError", f"database error, code: {code}")
    return refusal


def answering_errors(endpoint: Endpoint) -> Endpoint:
    """Turn every way an endpoint can fail into a refusal; what is the server's fault is logged."""

    @wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except StorageError as exc:
            refusal = exc
        except ClientDisconnect:
            refusal = invalid_request("The upload was cut off")  # nobody is there to read it
        except psycopg.Error as exc:
            refusal = of_database(exc)
            if refusal.status >= 500:
                _log.exception("storage.database_error path=%s", request.url.path)
        except OSError:
            _log.exception("storage.file_error path=%s", request.url.path)
            refusal = StorageError(500, "InternalError", "The file cannot be stored or read; the stack's log says why")
        return refusal.response()

    return answer
