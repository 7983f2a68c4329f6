"""Values of the write-ahead log, which are text, as JSON: what `to_jsonb(value)` would say.

Numbers and JSON keep their text (`orjson.Fragment`), so no digit of a numeric is lost. Any type that `to_jsonb`
writes as its text (uuid, enum, inet, range, vector ...) needs nothing here. Composite types are the one difference:
they stay text too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

Json = str | bool | orjson.Fragment | list["Json"] | None

_BOOL, _JSON, _JSONB = 16, 114, 3802
_TIMESTAMP, _TIMESTAMPTZ = 1114, 1184
_BOX = 603  # the one type whose values are not separated by commas
_NUMBERS = frozenset({20, 21, 23, 700, 701, 1700})  # int8 int2 int4 float4 float8 numeric
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
_MOMENT = re.compile(r"(\d{4,}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)(?:([+-]\d\d)(:\d\d)?)?( BC)?")


@dataclass(frozen=True, slots=True)
class ValueType:
    """A column's type without its domains. `element` is set for arrays."""

    oid: int
    element: int | None = None

    @property
    def is_number(self) -> bool:
        return self.oid in _NUMBERS

    def to_json(self, text: str) -> Json:
        """The JSON of one value that is not null."""
        if self.element is not None:
            return _array(text, _scalar(self.element), ";" if self.element == _BOX else ",")
        return _scalar(self.oid)(text)


def _scalar(oid: int) -> Callable[[str], Json]:
    if oid in _NUMBERS:
        return _number
    if oid in {_JSON, _JSONB}:
        return orjson.Fragment
    if oid in {_TIMESTAMP, _TIMESTAMPTZ}:
        return _moment
    return _boolean if oid == _BOOL else str


def _number(text: str) -> Json:
    return text if text in _NOT_FINITE else orjson.Fragment(text)


def _boolean(text: str) -> Json:
    return text == "t"


def _moment(text: str) -> Json:
    match = _MOMENT.fullmatch(text)
    if match is None:  # infinity
        return text
    day, time, hours, minutes, before_christ = match.groups()
    zone = f"{hours}{minutes or ':00'}" if hours else ""
    return f"{day}T{time}{zone}{before_christ or ''}"


def _array(text: str, element: Callable[[str], Json], delimiter: str) -> Json:
    """Parse an array literal: `{1,NULL,{"a b"}}`, perhaps after its bounds (`[0:1]=`)."""
    stack: list[list[Json]] = []
    outer: list[Json] = []
    position = text.index("{")
    while position < len(text):
        match text[position]:
            case "{":
                stack.append([])
                position += 1
            case "}":
                outer = stack.pop()
                if stack:
                    stack[-1].append(outer)
                position += 1
            case between if between == delimiter:
                position += 1
            case '"':
                item, position = _quoted(text, position + 1)
                stack[-1].append(element(item))
            case _:
                end = position
                while text[end] not in {delimiter, "}"}:
                    end += 1
                item, position = text[position:end], end
                stack[-1].append(None if item == "NULL" else element(item))
    return outer


def _quoted(text: str, position: int) -> tuple[str, int]:
    characters: list[str] = []
    while text[position] != '"':
        if text[position] == "\\":
            position += 1
        characters.append(text[position])
        position += 1
    return "".join(characters), position + 1
