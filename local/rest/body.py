"""The body of a request: read once under a limit, looked at only for its keys, and passed on as it came.

What is looked at has to be built in memory, which can take far more room than the text of it: `MAX_BUILT` bounds that.
Where the request names the columns, as the clients do for lists, nothing is built, and the database alone reads it.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import orjson
from psycopg.types.json import Json
from starlette.requests import Request

from local.rest import errors

MAX_BYTES = 64 * 1024 * 1024
MAX_BUILT = 256 * 1024 * 1024
# What each of these stands for takes in memory, at the least that is usual: an object, a list, one more value.
_ROOM = {b"{": 200, b"[": 64, b",": 56}
_BLANKS = b" \t\n\r"
_KEYS_DIFFER = "All object keys must match"


@dataclass(frozen=True, slots=True)
class Payload:
    """JSON rows: an object, or an array of objects, of which `keys` are to be read."""

    raw: bytes
    keys: tuple[str, ...]
    is_list: bool = False
    is_empty: bool = False

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

    Other JSON than rows is no row at all, as PostgREST has it.

    Raises:
        ApiError: PGRST102, for no JSON, or rows of different keys.
    """
    if columns:
        return Payload(raw, tuple(columns), is_list=_begins_list(raw))
    document = _parse(raw)
    if isinstance(document, dict):
        return Payload(raw, tuple(cast("dict[str, object]", document)))
    rows = cast("list[object]", document) if isinstance(document, list) else []
    return Payload(raw, _common_keys(rows), is_list=True, is_empty=not rows)


def csv_rows(raw: bytes) -> bytes:
    """CSV with a header line, as JSON rows of strings; the bare word NULL is null.

    Raises:
        ApiError: PGRST102, for no CSV.
    """
    try:
        lines = _csv_lines(raw.decode())
        header = next(lines, None)
        if header is None:
            raise errors.bad_body("The body is not CSV with a header: it is empty")
        return b"[" + b",".join(_csv_objects(header, lines)) + b"]"
    except (csv.Error, ValueError) as exc:
        raise errors.bad_body(f"The body is not CSV with a header: {exc}") from exc


def parse_arguments(raw: bytes, *, columns: Sequence[str] | None) -> Payload | None:
    """Look at the arguments of a function: an object, or the first of several. No body is no argument.

    None for JSON that is neither: only a function that takes the body whole can be called with it.

    Raises:
        ApiError: PGRST102, for no JSON.
    """
    raw = raw or b"{}"
    if columns:
        return Payload(raw, tuple(columns), is_list=_begins_list(raw))
    document = _parse(raw)
    if isinstance(document, dict):
        return Payload(raw, tuple(cast("dict[str, object]", document)))
    if not isinstance(document, list) or not document:
        return None
    try:
        return Payload(raw, _common_keys(cast("list[object]", document)), is_list=True)
    except errors.ApiError:
        return None


def _parse(raw: bytes) -> object:
    if sum(raw.count(mark) * room for mark, room in _ROOM.items()) > MAX_BUILT:
        message = "The request body has too many values; name its columns by the 'columns' parameter"
        raise errors.ApiError(413, "PGRST102", message)
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise errors.bad_body() from exc


def _begins_list(raw: bytes) -> bool:
    return not raw.lstrip(_BLANKS).startswith(b"{")


def _common_keys(rows: Sequence[object]) -> tuple[str, ...]:
    if not rows:
        return ()
    first = rows[0]
    if not isinstance(first, dict):
        raise errors.bad_body(_KEYS_DIFFER)
    keys = cast("dict[str, object]", first).keys()
    if any(not isinstance(row, dict) or cast("dict[str, object]", row).keys() != keys for row in rows):
        raise errors.bad_body(_KEYS_DIFFER)
    return tuple(keys)


def _csv_lines(text: str) -> Iterator[list[str]]:
    # The limit is the whole module's: a field is as long as it is, and the body has a limit of its own.
    csv.field_size_limit(sys.maxsize)
    return (line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line)


def _csv_objects(header: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[bytes]:
    for line in lines:
        if len(line) != len(header):
            raise errors.bad_body("All lines must have same number of fields")
        fields = zip(header, line, strict=True)
        yield orjson.dumps({name: None if field == "NULL" else field for name, field in fields})
