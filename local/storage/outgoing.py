"""Answers that carry a file: its headers, the part that was asked for, and nothing if the client has it already."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from datetime import datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import BinaryIO
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from local.storage.errors import StorageError, not_satisfiable, precondition_failed
from local.storage.names import check_header
from local.storage.objects import StoredObject

_CHUNK_BYTES = 256 * 1024
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110
_NOT_IN_A_NAME = re.compile(r'[^ -~]|["\\]')
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def file_response(
    request: Request, stored: StoredObject, file: BinaryIO, *, expires: datetime | None = None
) -> Response:
    """Answer with the file, which is closed when it is sent.

    Raises:
        StorageError: PreconditionFailed if it is not the version that the client wants; InvalidRange if no byte of it
            was asked for.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        _check_preconditions(request, stored)
        headers = _headers(request, stored, expires)
        if _is_fresh(request, stored):
            file.close()
            return Response(status_code=304, headers=headers)
        part = _part(request, stored, size)
    except StorageError:
        file.close()
        raise
    wanted = part or range(size)
    headers["Content-Length"] = str(len(wanted))
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    status = 200 if part is None else 206
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_read(file, wanted), status, headers)


async def _read(file: BinaryIO, wanted: range) -> AsyncGenerator[bytes]:
    try:
        left = len(wanted)
        await asyncio.to_thread(file.seek, wanted.start)
        while left and (chunk := await asyncio.to_thread(file.read, min(left, _CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk
    finally:
        file.close()


def _headers(request: Request, stored: StoredObject, expires: datetime | None) -> dict[str, str]:
    facts = stored.facts
    mime_type = _text(facts.get("mimetype"), "application/octet-stream")
    headers = {
        "Accept-Ranges": "bytes",
        # As on Supabase: a page that somebody uploaded does not run in the project's origin.
        "Content-Type": "text/plain" if "text/html" in mime_type.lower() else mime_type,
        "ETag": _etag(stored),
        "Last-Modified": format_datetime(stored.last_modified, usegmt=True),
    }
    cache_control = _text(facts.get("cacheControl"), "no-cache")
    if expires is None:
        headers["Cache-Control"] = cache_control
    else:
        headers["Expires"] = format_datetime(expires, usegmt=True)
        if "no-transform" in cache_control.lower():
            headers["Cache-Control"] = "no-transform"
    if encoding := _text(facts.get("contentEncoding"), ""):
        headers["Content-Encoding"] = encoding
    download = request.query_params.get("download")
    if download is not None:
        headers["Content-Disposition"] = _attachment(download)
    return headers


def _attachment(name: str) -> str:
    """Have a browser save the file by this name: in ASCII for old ones, and as it is (RFC 6266)."""
    if not name:
        return "attachment;"
    plain = _NOT_IN_A_NAME.sub("_", name)
    plain = plain if _TOKEN.fullmatch(plain) else f'"{plain}"'
    return f"attachment; filename={plain}; filename*=UTF-8''{quote(name, safe='!')}"


def _check_preconditions(request: Request, stored: StoredObject) -> None:
    """Refuse if the client wants another version than the one that is there; the date counts only without an ETag."""
    wanted = request.headers.get("if-match")
    if wanted is not None:
        if not {tag.strip() for tag in wanted.split(",")} & {"*", _etag(stored)}:
            raise precondition_failed()
        return
    before = _date(request.headers.get("if-unmodified-since"))
    if before is not None and stored.last_modified.replace(microsecond=0) > before:
        raise precondition_failed()


def _is_fresh(request: Request, stored: StoredObject) -> bool:
    """Whether the client's copy is the file; the date counts only where no ETag is given."""
    known = request.headers.get("if-none-match")
    if known is not None:
        tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
        return bool(tags & {"*", _etag(stored)})
    since = _date(request.headers.get("if-modified-since"))
    return since is not None and stored.last_modified.replace(microsecond=0) <= since


def _part(request: Request, stored: StoredObject, size: int) -> range | None:
    """The bytes that were asked for. What is no single range, or is for another version, asks for all."""
    condition = request.headers.get("if-range")
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if asked is None or asked[0] == "bytes=-" or (condition and condition != _etag(stored)):
        return None
    first, last = asked[1], asked[2]
    if not first:
        part = range(max(size - int(last), 0), size)
    else:
        part = range(int(first), min(int(last) + 1, size) if last else size)
        if last and int(last) < int(first):
            return None  # which is no range at all
    if not part:
        raise not_satisfiable(size)
    return part


def _etag(stored: StoredObject) -> str:
    return _text(stored.facts.get("eTag"), f'"{stored.version}"')


def _text(value: object, default: str) -> str:
    """A fact that can be a header. Somebody may have written the row by hand."""
    try:
        return check_header("", value) if isinstance(value, str) else default
    except StorageError:
        return default


def _date(value: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
