"""The select list of one relation, and what its rows are grouped by where it has aggregates.

A list with aggregates groups by everything else in it. The aggregates of a spread are the parent's: the list yields
what they are made of, under a name of its own, and the parent makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from local.rest.query import Aggregate
from local.rest.sql import NOTHING, deparsed, joined, type_name

Made = tuple[Aggregate, Composable]  # with the value that it is made of
_ARRAY = "json_agg"  # no client can ask for it


@dataclass(frozen=True, slots=True)
class Item:
    """What stands in the list; where rows are grouped, what by, and what stands there instead."""

    text: Composable
    groups: Sequence[Composable]
    grouped: Composable | None = None

    @classmethod
    def document(cls, value: Composable, name: str) -> Item:
        """JSON, which knows no equality: rows are grouped by its text."""
        text, called = SQL("{}::text").format(value), Identifier(name)
        return cls(SQL("{} as {}").format(value, called), [text], SQL("{}::json as {}").format(text, called))


@dataclass(frozen=True, slots=True)
class Lifted:
    """An aggregate that the parent is to make of the column `name`."""

    aggregate: Aggregate
    name: str


@dataclass(frozen=True, slots=True)
class Selected:
    """A select list as SQL, the grouping that goes with it, and the aggregates left to the parent."""

    texts: Composable
    grouping: Composable
    lifted: Sequence[Lifted] = ()


def arrays(alias: str, names: Iterable[str]) -> list[Made]:
    """The columns of joined rows, each to become one array; where no row was joined, nothing goes into it."""
    return [
        (
            Aggregate(_ARRAY, None, name),
            SQL("case when {}.* is distinct from null then coalesce(to_json({}), 'null') end").format(
                Identifier(alias), Identifier(alias, name)
            ),
        )
        for name in names
    ]


def grouped(items: Sequence[Item], aggregates: Sequence[Made]) -> Selected:
    """Make the aggregates, in groups of `items`."""
    texts = [item.grouped or item.text for item in items]
    texts += [_aggregated(aggregate, value) for aggregate, value in aggregates]
    groups = [group for item in items for group in item.groups]
    return Selected(joined(texts), SQL(" group by {}").format(joined(groups)) if groups else NOTHING)


def lifted(items: Sequence[Item], aggregates: Sequence[Made], alias: Callable[[], str]) -> Selected:
    """Leave the aggregates to the parent."""
    left = [Lifted(aggregate, alias()) for aggregate, _ in aggregates]
    texts = [item.text for item in items]
    texts += [
        SQL("{} as {}").format(value, Identifier(one.name)) for one, (_, value) in zip(left, aggregates, strict=True)
    ]
    return Selected(joined(texts), NOTHING, left)


def _aggregated(aggregate: Aggregate, value: Composable) -> Composable:
    if aggregate.function == _ARRAY:
        made = SQL("coalesce(json_agg({}) filter (where {} is not null), '[]')").format(value, value)
        return SQL("{} as {}").format(made, Identifier(aggregate.output_name))
    made = SQL("{}({})").format(deparsed(aggregate.function), value)
    if aggregate.cast is not None:
        made = SQL("cast({} as {})").format(made, type_name(aggregate.cast))
    return SQL("{} as {}").format(made, Identifier(aggregate.output_name))
