"""How an embed is joined to its parent, and what it puts into the parent's select list.

An embed is a lateral join that yields either a row (to-one) or aggregated arrays (to-many: one of its rows or, spread
into the parent, one of each column), so a parent row is never multiplied. Only a to-many spread with aggregates is
joined row by row: its parent is grouped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from local.rest.query import Aggregate, Column, Comparison, Embed, Field, SelectItem, Star
from local.rest.selecting import Item, Lifted, Made, arrays
from local.rest.sql import joined


@dataclass(frozen=True, slots=True)
class Reading:
    """`rows` is the whole select; `matching` its from and where alone, to be counted without the page.

    `matching_values` is how many of the statement's parameters are bound before the end of `matching`.
    """

    rows: Composable
    matching: Composable
    matching_values: int
    lifted: Sequence[Lifted] = ()


@dataclass(frozen=True, slots=True)
class Joined:
    """An embed of one level: what it selects, how it is joined, and the test that it is absent.

    Attributes:
        names: The columns that a to-one spread adds to the parent.
        made: The aggregates that are left to the parent.
    """

    embed: Embed
    alias: str
    items: Sequence[Item]
    join: Composable
    is_absent: Composable
    names: Sequence[str] = ()
    made: Sequence[Made] = ()


# What groups are ordered by, of a relation's own columns or an embed's.
Shown = dict[tuple[str | None, Field], Composable]


def to_one(embed: Embed, reading: Reading, alias: str, outputs: Mapping[str, bool]) -> Joined:
    """Join a row, or spread its columns: their names, and whether each is a document."""
    row = SQL("{}.*").format(Identifier(alias))
    items: list[Item] = []
    if embed.spread:
        items = [
            Item.document(Identifier(alias, name), name)
            if is_document
            else Item(Identifier(alias, name), [Identifier(alias, name)])
            for name, is_document in outputs.items()
        ]
    elif not is_empty(embed):
        items = [Item.document(SQL("row_to_json({})").format(row), embed.output_name)]
    is_absent = SQL("{} is not distinct from null").format(row)
    return Joined(
        embed, alias, items, _rows_joined(embed, reading, alias), is_absent, [*outputs], _left(reading, alias)
    )


def to_many(embed: Embed, reading: Reading, alias: str) -> Joined:
    """Join an array of rows."""
    name = Identifier(alias)
    rows = SQL("{}.rows").format(name)
    join = SQL(" {} join lateral (select json_agg({}.*) as rows from ({}) as {}) as {} on {}").format(
        _kind(embed), name, reading.rows, name, name, SQL("{} is not null").format(rows) if embed.inner else SQL("true")
    )
    items = [] if is_empty(embed) else [Item.document(SQL("coalesce({}, '[]')").format(rows), embed.output_name)]
    return Joined(embed, alias, items, join, SQL("{} is null").format(rows))


def to_many_spread(embed: Embed, reading: Reading, alias: str, names: Collection[str]) -> Joined:
    """Join an array of each of the columns `names`."""
    if reading.lifted:
        join, row = _rows_joined(embed, reading, alias), SQL("{}.*").format(Identifier(alias))
        made = [*_left(reading, alias), *arrays(alias, names)]
        return Joined(embed, alias, [], join, SQL("{} is not distinct from null").format(row), made=made)
    name, count = Identifier(alias), Identifier(alias, "pgrst_count")
    columns = [
        SQL("coalesce(json_agg({}), '[]') as {}").format(Identifier(alias, name), Identifier(name)) for name in names
    ]
    join = SQL(" {} join lateral (select {} from ({}) as {}) as {} on {}").format(
        _kind(embed),
        joined([SQL("count(*) as pgrst_count"), *columns]),
        reading.rows,
        name,
        name,
        SQL("{} > 0").format(count) if embed.inner else SQL("true"),
    )
    items = [Item.document(Identifier(alias, name), name) for name in names]
    return Joined(embed, alias, items, join, SQL("{} = 0").format(count))


def absence(asked: Comparison, embeds: Sequence[Joined]) -> Composable | None:
    """`embed=is.null` and `embed=not.is.null`, the only filters on an embed as a whole; others are on a column."""
    operation = asked.operation
    if asked.field.path or operation.operator != "is" or operation.value not in {"null", "not_null"}:
        return None
    for embed in embeds:
        if asked.field.name != embed.embed.output_name:
            continue
        wants_absent = (operation.value == "null") != operation.negated
        return embed.is_absent if wants_absent else SQL("not ({})").format(embed.is_absent)
    return None


def shown(items: Sequence[SelectItem], listed: Sequence[Item], embeds: Sequence[Joined]) -> Shown:
    """What groups can be ordered by, as it stands in the select list: columns, and those of spreads by their names."""
    columns = [item for item in items if isinstance(item, Star | Column)]
    found: Shown = {
        (None, column.field): item.groups[0]
        for column, item in zip(columns, listed, strict=False)
        if isinstance(column, Column)
    }
    for embed in embeds:
        found |= {(embed.embed.output_name, Field(name)): Identifier(embed.alias, name) for name in embed.names}
    return found


def is_empty(embed: Embed) -> bool:
    """Whether nothing is to be shown of it: it is there for its filters."""
    return all(isinstance(item, Embed) and is_empty(item) for item in embed.items)


def has_aggregates(embed: Embed) -> bool:
    """Whether a spread leaves aggregates to its parent."""
    return any(
        isinstance(item, Aggregate) or (isinstance(item, Embed) and item.spread and has_aggregates(item))
        for item in embed.items
    )


def _rows_joined(embed: Embed, reading: Reading, alias: str) -> Composable:
    return SQL(" {} join lateral ({}) as {} on true").format(_kind(embed), reading.rows, Identifier(alias))


def _left(reading: Reading, alias: str) -> list[tuple[Aggregate, Composable]]:
    return [(one.aggregate, Identifier(alias, one.name)) for one in reading.lifted]


def _kind(embed: Embed) -> Composable:
    return SQL("inner") if embed.inner else SQL("left")
