"""Row filters of a subscription: `column=op.value`, several joined by comma, all must hold.

A filter is checked and its value brought into the server's own text form when the subscription is made; matching is
then plain work on the text of the log. What cannot be decided that way for sure (regular expressions, an order
that the type's own operator defines) is refused at subscription, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

import psycopg
from psycopg import sql

from local.realtime.catalog import Column, Table
from local.realtime.pgoutput import UNCHANGED, Row
from local.services import Pool

MOST_IN_LIST = 100
_CONDITION = re.compile(r"(?P<column>[^=,]+)=(?P<negated>not\.)?(?P<op>[a-z]+)\.(?P<value>\((?:[^()]*)\)|[^,]*)(?:,|$)")
_TEXT_OIDS = frozenset({25, 1042, 1043})  # text, character, character varying
_MOMENT_OIDS = frozenset({1082, 1114, 1184})  # date, timestamp, timestamptz
# The session that wrote it has UTC, so the zone carries no information.
_MOMENT = re.compile(
    r"(?P<year>\d{4,})-(?P<rest>\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?)(?:\+00)?(?P<before_christ> BC)?"
)
_ORDERS: Mapping[str, Callable[[int], bool]] = {
    "lt": lambda sign: sign < 0,
    "lte": lambda sign: sign <= 0,
    "gt": lambda sign: sign > 0,
    "gte": lambda sign: sign >= 0,
}
_KEYWORDS: Mapping[str, str | None] = {"null": None, "true": "t", "false": "f"}
_Key = TypeVar("_Key", tuple[bool, Decimal], tuple[float, str], str)


class InvalidFilter(Exception):  # noqa: N818 - reads as what it says
    """The filter cannot be applied to the table; the message is for the subscriber."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on one column."""

    column: str
    holds: Callable[[str | None], bool]

    def matches(self, row: Row) -> bool:
        """Whether the row passes. A value that the log does not hold never does."""
        value = row.get(self.column, UNCHANGED)
        return value is not UNCHANGED and self.holds(value)


async def parse_filters(text: str, table: Table, pool: Pool) -> tuple[Filter, ...]:
    """Make the filters of one subscription.

    Raises:
        InvalidFilter: syntax, an unknown column or operator, or a value that is not of the column's type.
    """
    filters: list[Filter] = []
    position = 0
    while position < len(text):
        match = _CONDITION.match(text, position)
        if match is None:
            raise InvalidFilter(f"Error parsing filter {text!r}: it must be column=operator.value")
        position = match.end()
        column = table.columns.get(match["column"])
        if column is None:
            raise InvalidFilter(f"invalid column for filter {match['column']}")
        holds = await _condition(match["op"], match["value"], column, pool)
        if match["negated"]:
            holds = _negated(holds, null_tests=match["op"] in {"is", "isdistinct"})
        filters.append(Filter(column.name, holds))
    return tuple(filters)


async def _condition(  # noqa: PLR0911 - one return an operator
    op: str, value: str, column: Column, pool: Pool
) -> Callable[[str | None], bool]:
    match op:
        case "eq" | "neq" | "isdistinct":
            (wanted,) = await _canonical([value], column, pool)
            equal = _equality(column, [wanted])
            if op == "eq":
                return lambda text: text is not None and equal(text)
            if op == "neq":
                return lambda text: text is not None and not equal(text)
            return lambda text: text is None or not equal(text)
        case "in":
            items = [item.strip().strip('"') for item in value.strip("()").split(",")]
            if len(items) > MOST_IN_LIST:
                raise InvalidFilter(f"too many values for `in` filter. Maximum {MOST_IN_LIST}")
            among = _equality(column, await _canonical(items, column, pool))
            return lambda text: text is not None and among(text)
        case "is":
            if value not in _KEYWORDS:
                raise InvalidFilter(f"invalid value for `is` filter: {value}")
            keyword = _KEYWORDS[value]
            return lambda text: text == keyword
        case "lt" | "lte" | "gt" | "gte":
            (bound,) = await _canonical([value], column, pool)
            compare, decide = _order(column, bound), _ORDERS[op]
            return lambda text: text is not None and decide(compare(text))
        case "like" | "ilike":
            pattern = _like(value, ignore_case=op == "ilike")
            _require_text(column, op)
            return lambda text: text is not None and pattern.fullmatch(text) is not None
        case _:
            raise InvalidFilter(f"the embedded Realtime does not support the filter operator {op!r}")


async def _canonical(values: list[str], column: Column, pool: Pool) -> list[str]:
    """The values as PostgreSQL writes them, which is how the log has them."""
    statement = sql.SQL("select array(select v::{}::text from unnest(%s::text[]) with ordinality u(v, i) order by i)")
    try:
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("set local timezone = 'UTC'; set local datestyle = 'ISO'")
            cursor = await connection.execute(statement.format(_type(column)), [values])
            row = await cursor.fetchone()
    except psycopg.DataError as exc:
        raise InvalidFilter(f"invalid value for the column {column.name} of type {column.type_name}") from exc
    return row[0] if row else []


def _type(column: Column) -> sql.SQL:
    return sql.SQL(column.sql_type)  # pyright: ignore[reportArgumentType] - quoted by the server itself


def _equality(column: Column, wanted: list[str]) -> Callable[[str], bool]:
    if column.value_type.is_number:
        # 1.0 and 1.00 are the same number; as text they are not.
        numbers = {_number(number) for number in wanted}
        return lambda text: _number(text) in numbers
    texts = frozenset(wanted)
    return lambda text: text in texts


def _order(column: Column, bound: str) -> Callable[[str], int]:
    """A function that tells a value's place: negative before the bound, positive after it."""
    if column.value_type.is_number:
        return _placed(_number, bound, column)
    if column.value_type.oid in _MOMENT_OIDS:
        return _placed(_moment, bound, column)
    _require_text(column, "of order")
    return _placed(str, bound, column)  # the cluster's collation is C.UTF-8


def _placed(key: Callable[[str], _Key], bound: str, column: Column) -> Callable[[str], int]:
    try:
        place = key(bound)
    except (ValueError, ArithmeticError) as exc:
        raise InvalidFilter(f"the embedded Realtime cannot order {column.type_name} by {bound}") from exc

    def compare(text: str) -> int:
        value = key(text)
        return (value > place) - (value < place)

    return compare


def _number(text: str) -> tuple[bool, Decimal]:
    # As in PostgreSQL, NaN is equal to itself and greater than every number.
    return (True, Decimal()) if text == "NaN" else (False, Decimal(text))


def _moment(text: str) -> tuple[float, str]:
    """The year, negative before Christ, and the rest. PostgreSQL's years go far beyond those of `datetime`."""
    if text in {"infinity", "-infinity"}:
        return float(text), ""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"not a moment: {text!r}")
    year = int(match["year"])
    # The fields have fixed widths and a fraction has no trailing zeros, so the text sorts as the time does.
    return (-year if match["before_christ"] else year), match["rest"]


def _require_text(column: Column, op: str) -> None:
    if column.value_type.element is not None or column.value_type.oid not in _TEXT_OIDS:
        raise InvalidFilter(
            f"the embedded Realtime does not support the filter operator {op!r} on type {column.type_name}"
        )


def _like(pattern: str, *, ignore_case: bool) -> re.Pattern[str]:
    parts: list[str] = []
    escaped = False
    for character in pattern:
        if escaped:
            parts.append(re.escape(character))
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            parts.append({"%": ".*", "_": "."}.get(character, re.escape(character)))
    return re.compile("".join(parts), re.DOTALL | (re.IGNORECASE if ignore_case else 0))


def _negated(holds: Callable[[str | None], bool], *, null_tests: bool) -> Callable[[str | None], bool]:
    # In SQL `not` of an unknown comparison is unknown still; only the tests for null know about null.
    if null_tests:
        return lambda text: not holds(text)
    return lambda text: text is not None and not holds(text)
