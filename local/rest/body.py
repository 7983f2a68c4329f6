"""The body of a request: read once under a limit, looked at only for its keys, and passed on as it came."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import orjson
from psycopg.types.json import Json
from starlette.requests import Request

from local.rest import errors

MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Payload:
    """JSON rows: an object, or an array of objects with the same keys."""

    raw: bytes
    keys: tuple[str, ...]
    is_list: bool
    count: int

    @property
    def is_empty(self) -> bool:
        return self.count == 0

    @property
    def json(self) -> Json:
        """The text itself as a bound value: no number loses a digit on its way through Python."""
        return raw_json(self.raw)


def raw_json(text: bytes) -> Json:
    return Json(text, dumps=bytes)


async def read_body(request: Request) -> bytes:
    """Read the whole body.

    Raises:
        ApiError: 413, as soon as it is too long.
    """
    chunks: list[bytes] = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > MAX_BYTES:
            raise errors.ApiError(413, "PGRST102", f"The request body is longer than {MAX_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def parse_rows(raw: bytes, *, columns: Sequence[str] | None) -> Payload:
    """Look at rows to be written. With `columns` given, the rows' own keys do not matter.

    Raises:
        ApiError: PGRST102, for no JSON, other JSON than rows, or rows of different keys.
    """
    document = _parse(raw)
    if isinstance(document, dict):
        return Payload(raw, _keys(cast("dict[str, object]", document)), is_list=False, count=1)
    if not isinstance(document, list):
        raise errors.bad_body("The body must be a JSON object or an array of objects")
    rows = cast("list[object]", document)
    if not all(isinstance(row, dict) for row in rows):
        raise errors.bad_body("All elements of the array must be objects")
    objects = cast("list[dict[str, object]]", rows)
    if not objects:
        return Payload(raw, (), is_list=True, count=0)
    first = objects[0].keys()
    if columns is None and any(row.keys() != first for row in objects):
        raise errors.bad_body("All object keys must match")
    return Payload(raw, _keys(objects[0]), is_list=True, count=len(objects))


def csv_rows(raw: bytes) -> bytes:
    """CSV with a header line, as JSON rows of strings; the bare word NULL is null.

    Raises:
        ApiError: PGRST102, for no CSV.
    """
    try:
        header, *lines = csv.reader(io.StringIO(raw.decode(), newline=""), strict=True)
    except (csv.Error, ValueError) as exc:
        raise errors.bad_body(f"The body is not CSV with a header: {exc}") from exc
    lines = [line for line in lines if line]
    if any(len(line) != len(header) for line in lines):
        raise errors.bad_body("All lines must have same number of fields")
    rows: list[Mapping[str, str | None]] = [
        {name: None if text == "NULL" else text for name, text in zip(header, line, strict=True)} for line in lines
    ]
    return orjson.dumps(rows)


def parse_arguments(raw: bytes) -> Payload | None:
    """Look at the arguments of a function; no body is no argument. None for JSON that is no object.

    Raises:
        ApiError: PGRST102, for no JSON.
    """
    raw = raw or b"{}"
    document = _parse(raw)
    if not isinstance(document, dict):
        return None
    return Payload(raw, _keys(cast("dict[str, object]", document)), is_list=False, count=1)


def _parse(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise errors.bad_body() from exc


def _keys(row: dict[str, object]) -> tuple[str, ...]:
    return tuple(row)
