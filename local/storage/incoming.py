"""An upload's body as it arrives: what the client says about the file, then its bytes.

Both clients' forms are read: the bytes as the whole body with headers about them, and multipart with fields about
them before the file. Neither is ever in memory as a whole.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from local.storage.errors import invalid_request, too_large
from local.storage.names import check_header

if TYPE_CHECKING:  # where alone it is defined
    from python_multipart.multipart import MultipartCallbacks

_LARGEST_FIELD = 1 << 20  # of a form, Storage's limit on user metadata
_MOST_FIELDS = 20


@dataclass(frozen=True, slots=True)
class FileHead:
    """What is known of a file before its bytes. `size` only if the client gave it."""

    mime_type: str
    cache_control: str
    content_encoding: str | None
    user_metadata: dict[str, Any] | None
    size: int | None


async def read_upload(request: Request) -> AsyncGenerator[FileHead | bytes]:
    """The head of the file, and then its bytes in pieces.

    Raises:
        StorageError: there is no file, or the form cannot be read.
    """
    content_type, options = parse_options_header(request.headers.get("content-type"))
    is_form = content_type == b"multipart/form-data"
    async for piece in _read_form(request, options.get(b"boundary", b"")) if is_form else _read_raw(request):
        yield piece


def metadata_header(request: Request) -> dict[str, Any] | None:
    """The user metadata in `x-metadata`: JSON in base64."""
    try:
        return _json_object(base64.b64decode(request.headers.get("x-metadata", "")))
    except binascii.Error:
        return None


async def _read_raw(request: Request) -> AsyncGenerator[FileHead | bytes]:
    headers = request.headers
    length = headers.get("content-length", "")
    yield _head(
        mime_type=headers.get("content-type") or "application/octet-stream",
        cache_control=headers.get("cache-control") or "no-cache",
        content_encoding=headers.get("content-encoding"),
        user_metadata=metadata_header(request),
        size=int(length) if re.fullmatch("[0-9]{1,18}", length) else None,
    )
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _read_form(request: Request, boundary: bytes) -> AsyncGenerator[FileHead | bytes]:
    form = _Form()
    if not boundary:
        raise invalid_request("The multipart body has no boundary")
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in request.stream():
            if chunk:
                parser.write(chunk)
            for piece in form.take():
                yield piece
    except FormParserError as exc:
        raise invalid_request("The multipart body cannot be read") from exc
    if not form.is_complete:
        raise invalid_request("The multipart body ends early")
    if not form.has_file:
        raise invalid_request("No content provided")


@dataclass(slots=True)
class _Form:
    """Gathers what the parser reports. The first part with a file name is the file; what follows it is ignored."""

    has_file: bool = False
    is_complete: bool = False
    _in_file: bool = False
    _pieces: list[FileHead | bytes] = field(default_factory=list[FileHead | bytes])
    _fields: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    _headers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    _header_name: bytearray = field(default_factory=bytearray)
    _header_value: bytearray = field(default_factory=bytearray)
    _field: bytearray | None = None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._add_header_name,
            "on_header_value": self._add_header_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_part,
            "on_part_data": self._add,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def take(self) -> list[FileHead | bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[bytes(self._header_name).lower()] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"filename" in options:
            if not self.has_file:
                self.has_file = self._in_file = True
                self._pieces.append(self._file_head())
        elif not self.has_file:
            if len(self._fields) >= _MOST_FIELDS:
                raise invalid_request("The form has too many fields")
            self._field = self._fields.setdefault(options.get(b"name", b"").decode(errors="replace"), bytearray())

    def _add(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._pieces.append(data[start:end])
        elif self._field is not None:
            self._field += data[start:end]
            if len(self._field) > _LARGEST_FIELD:
                raise too_large("user_metadata")

    def _end_part(self) -> None:
        self._in_file, self._field = False, None

    def _end(self) -> None:
        self.is_complete = True

    def _file_head(self) -> FileHead:
        said = {name: value.decode(errors="replace") for name, value in self._fields.items()}
        # The type of a part loses its parameters, as in Storage's own parser.
        part_type, _ = parse_options_header(self._headers.get(b"content-type"))
        seconds = said.get("cacheControl")
        metadata = said.get("metadata") or said.get("userMetadata")
        return _head(
            mime_type=said.get("contentType") or part_type.decode("latin-1") or "application/octet-stream",
            cache_control=f"max-age={seconds}" if seconds else "no-cache",
            content_encoding=said.get("contentEncoding"),
            user_metadata=_json_object(metadata) if metadata else None,
            size=None,
        )


def _head(
    *,
    mime_type: str,
    cache_control: str,
    content_encoding: str | None,
    user_metadata: dict[str, Any] | None,
    size: int | None,
) -> FileHead:
    return FileHead(
        check_header("Content-Type", mime_type),
        check_header("Cache-Control", cache_control),
        check_header("Content-Encoding", content_encoding) if content_encoding else None,
        user_metadata,
        size,
    )


def _json_object(text: str | bytes) -> dict[str, Any] | None:
    """User metadata that is no JSON object is dropped without a word, as Storage does."""
    try:
        value: object = orjson.loads(text)
        orjson.dumps(value)  # which has a narrower limit to nesting, and has to give it out again
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
