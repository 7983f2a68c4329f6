"""Row filters of a subscription: `column=op.value`, several joined by comma, all must hold.

A filter means what PostgreSQL's operator on the column's type means. Equality of plain types and the order of numbers
are decided here, on the text of the log; everything else (patterns, collations, enums, ranges, other extensions'
types) by PostgreSQL, which the judge asks once a batch. What PostgreSQL would refuse is refused at the subscription.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

import psycopg
from psycopg import sql

from local.realtime.catalog import Column, Reader, Table
from local.realtime.database import is_away
from local.realtime.filter_syntax import Condition, parse
from local.realtime.judge import Judge, Question

MOST_IN_LIST = 100
# Types whose equal values have equal texts, the same in a cast as in the log (where true is `t`): text, varchar, date,
# timestamp, timestamptz, uuid.
_PLAIN_OIDS = frozenset({25, 1043, 1082, 1114, 1184, 2950})
_BOOLEAN_OID = 16
_SIGNS: Mapping[str, str] = {
    "eq": "=",
    "neq": "<>",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "like": "like",
    "ilike": "ilike",
    "match": "~",
    "imatch": "~*",
    "isdistinct": "is distinct from",
}
_ORDERS: Mapping[str, Callable[[int], bool]] = {
    "lt": lambda sign: sign < 0,
    "lte": lambda sign: sign <= 0,
    "gt": lambda sign: sign > 0,
    "gte": lambda sign: sign >= 0,
}
_KEYWORDS: Mapping[str, str | None] = {"null": None, "unknown": None, "true": "t", "false": "f"}

Holds = Callable[[str | None], bool]


class InvalidFilter(Exception):  # noqa: N818 - reads as what it says
    """The filter cannot be applied to the table; the message is for the subscriber."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition on one column: `holds` decides it, or, where that is None, the answer to `question`."""

    column: str
    holds: Holds | None = None
    question: Question | None = None


def require_columns(select: Iterable[str], reader: Reader) -> None:
    """Check the columns that a subscription wants to be told of.

    Raises:
        InvalidFilter: the reader may not select one.
    """
    for column in select:
        if column not in reader.columns:
            raise InvalidFilter(f"invalid column for select {column}")


async def make_filters(text: str, table: Table, judge: Judge) -> tuple[Filter, ...]:
    """Make the filters of one subscription.

    Raises:
        FilterSyntaxError: the text cannot be read.
        InvalidFilter: an unknown column, a value that is not of its type, or no such operator on it.
    """
    filters: list[Filter] = []
    for condition in parse(text):
        column = table.columns.get(condition.column)
        if column is None:
            raise InvalidFilter(f"invalid column for filter {condition.column}")
        filters.append(await _filter(condition, column, judge))
    return tuple(filters)


async def _filter(condition: Condition, column: Column, judge: Judge) -> Filter:
    if condition.operator == "is":
        return Filter(column.name, _is(condition, column))
    question = Question(_expression(condition, column).as_string())
    texts = await _checked(condition, column, judge, question)
    decide = _decided(condition, column, texts)
    if decide is None:
        return Filter(column.name, question=question)
    return Filter(column.name, _negated(condition, decide))


def _is(condition: Condition, column: Column) -> Holds:
    if condition.value not in _KEYWORDS:
        raise InvalidFilter("invalid value for is filter: must be null, true, false, or unknown")
    if condition.value != "null" and column.value_type.oid != _BOOLEAN_OID:
        raise InvalidFilter(f"is {condition.value} filter requires a boolean column, got {column.type_name}")
    keyword = _KEYWORDS[condition.value]
    return lambda text: (text == keyword) is not condition.negated


def _expression(condition: Condition, column: Column) -> sql.Composed:
    """The condition in SQL, about `value`, a text."""
    of_type = sql.SQL("::") + _type(column)
    if condition.operator == "in":
        holds = sql.SQL("value{0} = any ({1}{0}[])").format(of_type, sql.Literal(condition.value))
    else:
        sign = sql.SQL(_SIGNS[condition.operator])  # pyright: ignore[reportArgumentType] - one of ours
        holds = sql.SQL("value{0} {1} {2}{0}").format(of_type, sign, sql.Literal(condition.value))
    return sql.SQL("not ({})").format(holds) if condition.negated else holds


async def _checked(condition: Condition, column: Column, judge: Judge, question: Question) -> list[str | None]:
    """The values as PostgreSQL writes them, which is how the log has them."""
    of_type = sql.SQL("::") + _type(column)
    if condition.operator == "in":
        values = sql.SQL("unnest({}{}[])").format(sql.Literal(condition.value), of_type)
    else:
        values = sql.SQL("(values ({}{}))").format(sql.Literal(condition.value), of_type)
    try:
        texts = await judge.texts(values)
        if len(texts) > MOST_IN_LIST:
            raise InvalidFilter(f"too many values for `in` filter. Maximum {MOST_IN_LIST}")
        await judge.ask({(question, texts[0] if texts else None)})
    except psycopg.Error as exc:
        if is_away(exc):
            raise
        what = f"operator {condition.operator} on column {column.name} of type {column.type_name}"
        raise InvalidFilter(f"{what}: {exc.diag.message_primary or exc}") from exc
    return texts


def _decided(condition: Condition, column: Column, texts: list[str | None]) -> Holds | None:
    """The condition without its negation as a test of our own, if there is one that is sure to be right."""
    equal = _equality(column, {text for text in texts if text is not None})
    match condition.operator:
        case "eq" | "in" if equal is not None:
            return lambda text: text is not None and equal(text)
        case "neq" if equal is not None:
            return lambda text: text is not None and not equal(text)
        case "isdistinct" if equal is not None:
            return lambda text: text is None or not equal(text)
        case "lt" | "lte" | "gt" | "gte" if column.value_type.is_number and texts[0] is not None:
            bound, decide = _number(texts[0]), _ORDERS[condition.operator]
            return lambda text: text is not None and decide(_compared(_number(text), bound))
        case _:
            return None


def _equality(column: Column, wanted: set[str]) -> Callable[[str], bool] | None:
    if column.value_type.element is not None:
        return None
    if column.value_type.is_number:
        # 1.0 and 1.00 are the same number; as text they are not.
        numbers = set(map(_number, wanted))
        return lambda text: _number(text) in numbers
    return wanted.__contains__ if column.value_type.oid in _PLAIN_OIDS else None


def _negated(condition: Condition, decide: Holds) -> Holds:
    if not condition.negated:
        return decide
    # In SQL `not` of an unknown comparison is unknown still; only the test for a distinct value knows about null.
    knows_null = condition.operator == "isdistinct"
    return lambda text: (text is not None or knows_null) and not decide(text)


def _number(text: str) -> tuple[bool, Decimal]:
    # As in PostgreSQL, NaN is equal to itself and greater than every number.
    return (True, Decimal()) if text == "NaN" else (False, Decimal(text))


def _compared(one: tuple[bool, Decimal], other: tuple[bool, Decimal]) -> int:
    return (one > other) - (one < other)


def _type(column: Column) -> sql.SQL:
    return sql.SQL(column.sql_type)  # pyright: ignore[reportArgumentType] - quoted by the server itself
