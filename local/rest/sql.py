"""The pieces that statements are composed of: numbered parameters, quoted names, type names.

Statements go to the server as they are (`AsyncRawCursor`), so a parameter is `$n`, may be used more than once, and a
`%` in a name means nothing. Everything a client wrote is either a bound value or an `Identifier`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg.abc import AdaptContext
from psycopg.sql import SQL, Composable, Composed, Identifier

from local.rest.catalog import QualifiedName

# Names that only PostgreSQL's grammar knows, as the names of the types they stand for.
_GRAMMAR_TYPES = {
    "bigint": "int8",
    "bit varying": "varbit",
    "boolean": "bool",
    "char": "bpchar",
    "character": "bpchar",
    "character varying": "varchar",
    "dec": "numeric",
    "decimal": "numeric",
    "double precision": "float8",
    "float": "float8",
    "int": "int4",
    "integer": "int4",
    "real": "float4",
    "smallint": "int2",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
}

NOTHING = Composed([])


class Parameters:
    """Collects the values of one statement; strings stay untyped, so the server infers their type from the context."""

    def __init__(self) -> None:
        self.values: list[object] = []

    def bind(self, value: object) -> Composable:
        self.values.append(value)
        return _Numbered(len(self.values))


@dataclass(frozen=True, slots=True)
class Statement:
    """Text for the server with its values."""

    text: bytes
    values: Sequence[object] = ()

    @classmethod
    def of(cls, composed: Composable, parameters: Parameters) -> Statement:
        return cls(composed.as_bytes(None), parameters.values)


def qualified(name: QualifiedName) -> Identifier:
    return Identifier(*name)


def type_name(name: str) -> Identifier:
    """The type a client casts to."""
    lowered = " ".join(name.lower().split())
    return Identifier(_GRAMMAR_TYPES.get(lowered, lowered))


def deparsed(text: str) -> Composable:
    """A type or expression that PostgreSQL itself wrote out of its catalog."""
    return _Deparsed(text)


def joined(parts: Iterable[Composable], separator: str = ", ") -> Composed:
    return _Deparsed(separator).join(parts)


def where(conditions: Sequence[Composable]) -> Composable:
    return SQL(" where {}").format(joined(conditions, " and ")) if conditions else NOTHING


class _Numbered(Composable):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self._text = b"$%d" % number

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:  # noqa: ARG002 - the same everywhere
        return self._text


class _Deparsed(Composable):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def as_bytes(self, context: AdaptContext | None = None) -> bytes:  # noqa: ARG002 - the same everywhere
        return self._text.encode()

    def join(self, parts: Iterable[Composable]) -> Composed:
        items: list[Composable] = []
        for part in parts:
            if items:
                items.append(self)
            items.append(part)
        return Composed(items)
