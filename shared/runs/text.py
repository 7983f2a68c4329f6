"""What Postgres cannot store in text and jsonb, taken out; and the bounds of log lines.

jsonb refuses NUL and lone surrogates, and JSON has no NaN or infinity. A tool's output may hold all of them, and one
bad character must not cost a run its step.
"""

from __future__ import annotations

import math
import re
from enum import Enum
from typing import Final, TypeVar, cast
from uuid import UUID

import orjson

from shared.runs.models import Json, JsonObject

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_MAX_DEPTH: Final = 64
_MAX_INTEGER: Final = 2**63 - 1
_JSON_ALONE: Final = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)

Value = TypeVar("Value", bound="Json")


def storable(value: Value) -> Value:
    """The same value with NUL and lone surrogates replaced by U+FFFD, non-finite numbers by None, and integers beyond
    64 bits by the nearest float, which is what readers of JSON make of them.

    Raises:
        ValueError: it is nested more than 64 deep, or is no JSON at all.
    """
    if isinstance(value, str):
        return value if value.isprintable() else cast("Value", _UNSTORABLE.sub("\ufffd", value))
    raw = _dumped(value)
    # There and back is what JSON keeps of it, and much faster than a walk.
    return cast("Value", _storable(value, 0) if raw is None else orjson.loads(raw))


def written(value: Value) -> tuple[Value, bytes]:
    """The same as `storable` of what is no text, and how it is written as JSON.

    Raises:
        ValueError: as `storable`.
    """
    raw = _dumped(value)
    if raw is not None:
        return cast("Value", orjson.loads(raw)), raw
    clean = cast("Value", _storable(value, 0))
    try:
        return clean, orjson.dumps(clean)
    except TypeError as error:  # a kind of number of somebody's own
        raise ValueError(str(error)) from error


def _dumped(value: object) -> bytes | None:
    """The value as JSON; None: only a walk through it can say what of it is storable."""
    try:
        raw = orjson.dumps(value, option=_JSON_ALONE)
    except TypeError:  # a surrogate, a long integer, or no JSON
        return None
    return None if b"\\u0000" in raw or raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH else raw


def _storable(value: object, depth: int) -> Json:  # noqa: PLR0911 one return for each kind of value
    if depth > _MAX_DEPTH:
        raise ValueError("JSON is nested more than 64 deep")
    if isinstance(value, str):
        return _UNSTORABLE.sub("\ufffd", value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _MAX_INTEGER else _nearest_float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {_key(key): _storable(item, depth + 1) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_storable(item, depth + 1) for item in cast("list[object]", value)]
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return _storable(value.value, depth + 1)
    raise ValueError(f"{type(value).__name__} is no JSON")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"a key of JSON is a string, not {type(key).__name__}")  # noqa: TRY004 - documented
    return _UNSTORABLE.sub("\ufffd", key)


def _nearest_float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def json_bytes(value: Json) -> int:
    """How many bytes of JSON the value is once it is storable.

    Raises:
        ValueError: as `storable`.
    """
    try:
        raw = orjson.dumps(value)
    except TypeError:  # most often a surrogate or a long integer
        return len(orjson.dumps(storable(value)))
    if raw.count(b"[") + raw.count(b"{") > _MAX_DEPTH:
        storable(value)  # it may be nested too deep
    return len(raw)


def bounded_text(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, cut at a character, with a mark where something was cut."""
    clean = storable(text)
    if 4 * len(clean) <= limit:  # as most are
        return clean
    encoded = clean.encode()
    if len(encoded) <= limit:
        return clean
    mark = " [truncated]"
    return encoded[: limit - len(mark)].decode(errors="ignore") + mark


def bounded_metadata(metadata: JsonObject, limit: int) -> JsonObject:
    """The metadata, or a note of its size where it is over `limit` bytes as JSON."""
    if not metadata:
        return metadata
    clean = storable(metadata)
    size = len(orjson.dumps(clean))
    return clean if size <= limit else {"truncated": True, "bytes": size}
