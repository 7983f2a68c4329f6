"""`select` with its embeds, as one SQL select.

An embed never multiplies its parent's rows, so the page limit always counts parents; `embedding` says how.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.sql import SQL, Composable, Identifier

from local.rest import errors, selecting
from local.rest.catalog import Catalog, Table
from local.rest.conditions import Row, condition
from local.rest.embedding import (
    Joined,
    Reading,
    Shown,
    absence,
    has_aggregates,
    is_empty,
    shown,
    to_many,
    to_many_spread,
    to_one,
)
from local.rest.query import (
    Aggregate,
    Column,
    Comparison,
    Embed,
    OrderTerm,
    Path,
    Query,
    Scope,
    SelectItem,
    Star,
)
from local.rest.relationships import Relationship, find_relationship
from local.rest.selecting import Item, Made
from local.rest.sql import NOTHING, Parameters, deparsed, joined, qualified, type_name, where

_SHOWN = 15  # letters of a table's name, so that no alias is too long


class Reader:
    """Composes one query over one relation."""

    def __init__(self, catalog: Catalog, query: Query, parameters: Parameters, *, max_rows: int | None = None) -> None:
        """Read at most `max_rows` rows of each relation, whatever the client says."""
        self._max_rows = max_rows
        self._catalog = catalog
        self._query = query
        self._parameters = parameters
        self._used: set[Path] = set()
        self._root = ""
        self._count = 0

    def read(self, source: Composable, row: Row, *, table: Table | None, is_filtered: bool) -> Reading:
        """Read from `source` under the name `row.alias`.

        Embeds need the `table` whose rows they are. The rows that a write returns have met the root's filters
        already; `is_filtered` is False for them.

        Raises:
            ApiError: an embed that does not exist, or a filter on one that is not selected.
        """
        self._root, scope = row.alias, self._query.root
        self._used.add(())
        reading = self._compose(
            source,
            row,
            table,
            items=self._query.select,
            path=(),
            scope=scope if is_filtered else Scope(order=scope.order),
            on=(),
            limit=self._max_rows,
        )
        for path in self._query.scopes:
            if path not in self._used:
                raise errors.not_embedded(path[-1])
        return reading

    def _compose(
        self,
        source: Composable,
        row: Row,
        table: Table | None,
        *,
        items: Sequence[SelectItem],
        path: Path,
        scope: Scope,
        on: Sequence[Composable],
        limit: int | None,
        lifts: bool = False,
    ) -> Reading:
        """Compose one level; `lifts` leaves its aggregates to the parent."""
        _require_names(items, table, path)
        embeds = [self._embed(item, row, table, path) for item in items if isinstance(item, Embed)]

        def embed_filter(asked: Comparison) -> Composable | None:
            return absence(asked, embeds)

        conditions = [condition(row, asked, self._parameters, embed_filter) for asked in scope.conditions]
        matching = SQL(" from {} as {}{}{}").format(
            source, Identifier(row.alias), joined((embed.join for embed in embeds), ""), where([*on, *conditions])
        )
        matching_values = len(self._parameters.values)
        listed = [self._item(item, row) for item in items if isinstance(item, Star | Column)]
        listed += [item for embed in embeds for item in embed.items]
        aggregates = self._aggregates(items, row, embeds)
        is_grouped = bool(aggregates) and not lifts
        selected = (
            selecting.grouped(listed, aggregates) if is_grouped else selecting.lifted(listed, aggregates, self._alias)
        )
        page = self._page(scope, limit)
        order = self._order(scope, row, table, items, shown(items, listed, embeds) if is_grouped else {})
        rows = SQL("select {}{}{}{}{}").format(selected.texts, matching, selected.grouping, order, page)
        return Reading(rows, matching, matching_values, selected.lifted)

    def _aggregates(self, items: Sequence[SelectItem], row: Row, embeds: Sequence[Joined]) -> list[Made]:
        """The aggregates, with what each is made of: those of this relation, and those that embeds left to it."""
        aggregates: list[Made] = [
            (one, SQL("1") if one.of is None else self._value(one.of, row))
            for one in items
            if isinstance(one, Aggregate)
        ]
        aggregates += [made for embed in embeds for made in embed.made]
        if aggregates and not self._catalog.config.allows_aggregates:
            raise errors.aggregates_are_off()
        return aggregates

    def _item(self, item: Star | Column, row: Row) -> Item:
        if isinstance(item, Star):
            return Item(_every_column(row), [row.represented(name) or row.column(name) for name in row.types])
        value = self._value(item, row)
        return Item(SQL("{} as {}").format(value, Identifier(item.output_name)), [value])

    def _value(self, item: Column, row: Row) -> Composable:
        represented = None if item.field.path else row.represented(item.field.name)
        value = represented or row.value(item.field, self._parameters)
        if item.cast is not None:
            value = SQL("cast({} as {})").format(value, type_name(item.cast))
        return value

    def _order(
        self, scope: Scope, row: Row, table: Table | None, items: Sequence[SelectItem], listed: Shown
    ) -> Composable:
        if not scope.order:
            return NOTHING
        return SQL(" order by {}").format(joined(self._term(term, row, table, items, listed) for term in scope.order))

    def _term(
        self, term: OrderTerm, row: Row, table: Table | None, items: Sequence[SelectItem], listed: Shown
    ) -> Composable:
        value = listed.get((term.relation, term.field))
        if value is None and term.relation is not None:
            value = self._related_value(term, term.relation, row, table, items)
        value = value or row.value(term.field, self._parameters)
        direction = SQL(" desc") if term.descending else NOTHING
        nulls = NOTHING if term.nulls is None else SQL(" nulls {}").format(deparsed(term.nulls))
        return SQL("{}{}{}").format(value, direction, nulls)

    def _related_value(
        self, term: OrderTerm, relation: str, row: Row, table: Table | None, items: Sequence[SelectItem]
    ) -> Composable:
        embed = _named(items, relation)
        if embed is None or table is None:
            raise errors.not_embedded(relation)
        way = find_relationship(self._catalog, table, embed.target, embed.hint)
        if not way.to_one:
            raise errors.ApiError(
                400,
                "PGRST118",
                f"A related order on '{relation}' is not possible",
                details=f"'{table.name}' and '{relation}' do not form a many-to-one or one-to-one relationship",
            )
        target = self._row(way)
        value = target.value(term.field, self._parameters)
        source, on = _source(way, row), _on(way, row.alias, target.alias)
        return SQL("(select {} from {} as {}{})").format(value, source, Identifier(target.alias), where(on))

    def _page(self, scope: Scope, limit: int | None) -> Composable:
        limits = [bound for bound in (scope.limit, limit) if bound is not None]
        page = SQL(" limit {}").format(self._parameters.bind(min(limits))) if limits else NOTHING
        if scope.offset:
            page = SQL("{} offset {}").format(page, self._parameters.bind(scope.offset))
        return page

    def _embed(self, embed: Embed, parent: Row, table: Table | None, path: Path) -> Joined:
        if table is None:
            raise errors.not_implemented(f"'{embed.target}' cannot be embedded in rows that are not a table's")
        way = find_relationship(self._catalog, table, embed.target, embed.hint)
        path, scope = self._scope(embed, path)
        row = self._row(way)
        source, on = _source(way, parent), _on(way, parent.alias, row.alias)
        if way.junction is not None:
            source, on = self._over_junction(way, parent, row)
        target = self._catalog.tables[way.target]
        reading = self._compose(
            source,
            row,
            target,
            items=embed.items,
            path=path,
            scope=scope,
            on=on,
            limit=None if way.to_one else self._max_rows,
            lifts=embed.spread,
        )
        alias = self._alias()
        if not (way.to_one or embed.spread):
            return to_many(embed, reading, alias)
        outputs = self._outputs(embed.items, target) if embed.spread else {}
        return (to_one if way.to_one else to_many_spread)(embed, reading, alias, outputs)

    def _over_junction(self, way: Relationship, parent: Row, row: Row) -> tuple[Composable, list[Composable]]:
        if way.junction is None:
            raise ValueError("the relationship has no junction")
        near, far = self._alias(), way.junction
        middle = SQL("exists (select from {} as {}{})").format(
            qualified(far.table),
            Identifier(near),
            where([*_on(way, parent.alias, near), *_pairs(far.columns, near, row.alias)]),
        )
        return qualified(way.target), [middle]

    def _outputs(self, items: Sequence[SelectItem], table: Table) -> dict[str, bool]:
        """What the columns of a select are called, with those that are spread into it, and whether each is a document.

        The aggregates are the parent's, and so are the columns beside them in the spread of several rows.
        """
        outputs: dict[str, bool] = {}
        for item in items:
            if isinstance(item, Star):
                outputs |= dict.fromkeys(table.columns, False)
            elif isinstance(item, Column):
                outputs[item.output_name] = False
            elif isinstance(item, Embed) and item.spread:
                way = find_relationship(self._catalog, table, item.target, item.hint)
                if not way.to_one and has_aggregates(item):
                    continue
                inner = self._outputs(item.items, self._catalog.tables[way.target])
                outputs |= {name: is_document or not way.to_one for name, is_document in inner.items()}
            elif isinstance(item, Embed) and not is_empty(item):
                outputs[item.output_name] = True
        return outputs

    def _scope(self, embed: Embed, path: Path) -> tuple[Path, Scope]:
        """The embed's own part of the query; by its alias, or by the target's name, which still works."""
        for name in (embed.output_name, embed.target):
            own = (*path, name)
            if own not in self._used and any(known[: len(own)] == own for known in self._query.scopes):
                self._used.add(own)
                return own, self._query.scopes.get(own, Scope())
        return (*path, embed.output_name), Scope()

    def _row(self, way: Relationship) -> Row:
        """The target, under a name that tells it in plans."""
        alias = self._alias(way.target[1][:_SHOWN])
        return Row.of(self._catalog, self._catalog.tables[way.target], alias)

    def _alias(self, of: str = "pgrst") -> str:
        self._count += 1
        alias = f"{of}_{self._count}"
        return self._alias(of) if alias == self._root else alias


def _source(way: Relationship, parent: Row) -> Composable:
    """The target itself, or the function that answers it for a row of the parent."""
    if way.function is None:
        return qualified(way.target)
    row = SQL("{}::{}").format(Identifier(parent.alias), qualified(way.parent))
    return SQL("{}({})").format(qualified((way.function.schema, way.function.name)), row)


def _every_column(row: Row) -> Composable:
    represented = {name: row.represented(name) for name in row.types}
    if not any(represented.values()):
        return SQL("{}.*").format(Identifier(row.alias))
    return joined(
        SQL("{} as {}").format(value or row.column(name), Identifier(name)) for name, value in represented.items()
    )


def _on(way: Relationship, parent: str, other: str) -> list[Composable]:
    return _pairs(way.columns, parent, other)


def _pairs(columns: Sequence[tuple[str, str]], left: str, right: str) -> list[Composable]:
    return [SQL("{} = {}").format(Identifier(right, other), Identifier(left, own)) for own, other in columns]


def _require_names(items: Sequence[SelectItem], table: Table | None, path: Path) -> None:
    """Refuse two embeds of one name, of which a client would see only the last."""
    names = [item.output_name for item in items if isinstance(item, Embed)]
    for position, name in enumerate(names):
        if table is not None and name in names[:position]:
            raise errors.embedded_twice(f"{table.name}_{name}_{len(path) + 1}")


def _named(items: Sequence[SelectItem], name: str) -> Embed | None:
    embeds = [item for item in items if isinstance(item, Embed) and name in {item.output_name, item.target}]
    return embeds[0] if embeds else None
