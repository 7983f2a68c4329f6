"""From bytes to a checked body: bounded, strict JSON, no unknown field; a refusal names the field.

Nothing unbounded is read, and nothing that Postgres cannot store (NUL in text) goes further than here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request

from shared.errors import InvalidInput, PayloadTooLarge

MAX_BODY_BYTES: Final = 1_048_576
MAX_LENGTH_DIGITS: Final = 20  # of a Content-Length, the HTTP server's own limit where there is one
MAX_PROBLEMS: Final = 20

# Supabase's own: the clients' region switch, and the key of clients that cannot set headers.
_GATEWAY_PARAMETERS: Final = frozenset({"forceFunctionRegion", "apikey"})

Body = TypeVar("Body")
Path = tuple[int | str, ...]


async def read_body(request: Request) -> bytes:
    """Read the body, declared or chunked, up to the limit.

    Raises:
        PayloadTooLarge: it is over 1 MB; the rest is not read.
        InvalidInput: the client went away in the middle of it.
    """
    declared = request.headers.get("content-length", "")
    # The length first: Python refuses to read thousands of digits.
    if declared.isdecimal() and (len(declared) > MAX_LENGTH_DIGITS or int(declared) > MAX_BODY_BYTES):
        raise _too_large()
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise _too_large()
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise InvalidInput("The body ended before it was complete") from exc
    return b"".join(chunks)


def parse_body(raw: bytes, accepts: TypeAdapter[Body]) -> Body:
    """Check a JSON body; an empty one stands for `{}`.

    Types are taken strictly: `"5"` is no number.

    Raises:
        InvalidInput: with the first problem as message and all of them in `details`.
    """
    raw = raw or b"{}"
    try:
        # First by orjson: it refuses NaN and lone surrogates, which JSON and Postgres do not know.
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise InvalidInput(f"The body is not valid JSON (line {exc.lineno}, column {exc.colno})") from None
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object")
    if b"\\u0000" in raw:
        _refuse_nul(cast("dict[str, object]", value))
    try:
        return accepts.validate_json(raw, strict=True)
    except ValidationError as exc:
        raise _invalid(exc, accepts) from None


def parse_query(query: QueryParams, accepts: TypeAdapter[Body]) -> Body:
    """Check the parameters of a GET. A repeated parameter is a list, like one with commas.

    Raises:
        InvalidInput: as `parse_body`.
    """
    names = [name for name in query if name not in _GATEWAY_PARAMETERS]
    values = {name: ",".join(query.getlist(name)) for name in names}
    _refuse_nul(cast("dict[str, object]", values))
    try:
        return accepts.validate_strings(values)
    except ValidationError as exc:
        raise _invalid(exc, accepts) from None


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes (1 MB)")


def _refuse_nul(value: dict[str, object]) -> None:
    for path, text in _texts(value, ()):
        if "\0" in text:
            raise InvalidInput(f"{_dotted(path)}: must not contain NUL characters")


def _texts(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in cast("dict[str, object]", value).items():
            yield path, key
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[object]", value)):
            yield from _texts(item, (*path, index))


def _invalid(exc: ValidationError, accepts: TypeAdapter[Body]) -> InvalidInput:
    # Where one field picks the shape of the others, pydantic puts its value before every path; no caller wrote that.
    skip = 1 if _is_tagged(accepts) else 0
    problems = [_problem(problem, problem["loc"][skip:]) for problem in exc.errors(include_url=False)]
    shown = problems[:MAX_PROBLEMS]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    return InvalidInput(problems[0], details="; ".join(shown))


def _is_tagged(accepts: TypeAdapter[Body]) -> bool:
    schema = accepts.core_schema
    if schema["type"] == "definitions":  # recursive types (JSON) stand beside the shape
        schema = schema["schema"]
    return schema["type"] == "tagged-union"


def _problem(problem: ErrorDetails, path: Path) -> str:
    """One problem as `field: what is wrong`."""
    context, kind = problem.get("ctx", {}), problem["type"]
    if kind == "union_tag_not_found":
        return f"{_unquoted(context['discriminator'])}: Field required"
    if kind == "union_tag_invalid":
        return f"{_unquoted(context['discriminator'])}: {context['tag']!r} is unknown, use {context['expected_tags']}"
    if kind == "extra_forbidden":
        return f"{_dotted(path)}: Unknown field"
    return f"{_dotted(path)}: {problem['msg']}" if path else problem["msg"]


def _dotted(path: Path) -> str:
    return ".".join(str(part) for part in path)


def _unquoted(name: str) -> str:
    return name.strip("'")
