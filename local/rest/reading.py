"""`select` with its embeds, as one SQL select.

An embed is a lateral join that yields either a row (to-one) or aggregated arrays (to-many: one of its rows or, spread
into the parent, one of each column), so a parent row is never multiplied and the page limit always counts parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from local.rest import errors
from local.rest.catalog import Catalog, Table
from local.rest.conditions import Row, condition
from local.rest.query import Column, Comparison, Embed, OrderTerm, Path, Query, Scope, SelectItem, Star
from local.rest.relationships import Relationship, find_relationship
from local.rest.sql import NOTHING, Parameters, deparsed, joined, qualified, type_name, where


@dataclass(frozen=True, slots=True)
class Reading:
    """`rows` is the whole select; `matching` its from and where alone, to be counted without the page.

    `matching_values` is how many of the statement's parameters are bound before the end of `matching`.
    """

    rows: Composable
    matching: Composable
    matching_values: int


@dataclass(frozen=True, slots=True)
class _Joined:
    """An embed of one level: what it selects, how it is joined, and the test that it is absent."""

    embed: Embed
    items: Composable | None
    join: Composable
    is_absent: Composable


class Reader:
    """Composes one query over one relation."""

    def __init__(self, catalog: Catalog, query: Query, parameters: Parameters, *, max_rows: int | None = None) -> None:
        """Read at most `max_rows` rows of each relation, whatever the client says."""
        self._max_rows = max_rows
        self._catalog = catalog
        self._query = query
        self._parameters = parameters
        self._used: set[Path] = set()
        self._count = 0

    def read(self, source: Composable, row: Row, *, table: Table | None, is_filtered: bool) -> Reading:
        """Read from `source` under the name `row.alias`.

        Embeds need the `table` whose rows they are. The rows that a write returns have met the root's filters
        already; `is_filtered` is False for them.

        Raises:
            ApiError: an embed that does not exist, or a filter on one that is not selected.
        """
        scope = self._query.root
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
    ) -> Reading:
        embeds = [self._embed(item, row, table, path) for item in items if isinstance(item, Embed)]

        def embed_filter(asked: Comparison) -> Composable | None:
            return _absence(asked, embeds)

        conditions = [condition(row, asked, self._parameters, embed_filter) for asked in scope.conditions]
        matching = SQL(" from {} as {}{}{}").format(
            source, Identifier(row.alias), joined((embed.join for embed in embeds), ""), where([*on, *conditions])
        )
        matching_values = len(self._parameters.values)
        selected = [self._item(item, row) for item in items if not isinstance(item, Embed)]
        selected += [embed.items for embed in embeds if embed.items is not None]
        page = self._page(scope, limit)
        order = self._order(scope, row, table, items)
        return Reading(
            SQL("select {}{}{}{}").format(joined(selected), matching, order, page), matching, matching_values
        )

    def _item(self, item: Star | Column, row: Row) -> Composable:
        if isinstance(item, Star):
            return _every_column(row)
        represented = None if item.field.path else row.represented(item.field.name)
        value = represented or row.value(item.field, self._parameters)
        if item.cast is not None:
            value = SQL("cast({} as {})").format(value, type_name(item.cast))
        return SQL("{} as {}").format(value, Identifier(item.output_name))

    def _order(self, scope: Scope, row: Row, table: Table | None, items: Sequence[SelectItem]) -> Composable:
        if not scope.order:
            return NOTHING
        return SQL(" order by {}").format(joined(self._term(term, row, table, items) for term in scope.order))

    def _term(self, term: OrderTerm, row: Row, table: Table | None, items: Sequence[SelectItem]) -> Composable:
        if term.relation is None:
            value = row.value(term.field, self._parameters)
        else:
            value = self._related_value(term, term.relation, row, table, items)
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

    def _embed(self, embed: Embed, parent: Row, table: Table | None, path: Path) -> _Joined:
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
        )
        if way.to_one:
            return self._to_one(embed, reading)
        return self._to_many_spread(embed, reading, target) if embed.spread else self._to_many(embed, reading)

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

    def _to_one(self, embed: Embed, reading: Reading) -> _Joined:
        alias = Identifier(self._alias())
        join = SQL(" {} join lateral ({}) as {} on true").format(_join_kind(embed), reading.rows, alias)
        if _is_empty(embed):
            items = None
        elif embed.spread:
            items = SQL("{}.*").format(alias)
        else:
            items = SQL("row_to_json({}.*) as {}").format(alias, Identifier(embed.output_name))
        return _Joined(embed, items, join, SQL("{}.* is not distinct from null").format(alias))

    def _to_many(self, embed: Embed, reading: Reading) -> _Joined:
        alias = Identifier(self._alias())
        rows = SQL("{}.rows").format(alias)
        join = SQL(" {} join lateral (select json_agg({}.*) as rows from ({}) as {}) as {} on {}").format(
            _join_kind(embed),
            alias,
            reading.rows,
            alias,
            alias,
            SQL("{} is not null").format(rows) if embed.inner else SQL("true"),
        )
        items = None
        if not _is_empty(embed):
            items = SQL("coalesce({}, '[]') as {}").format(rows, Identifier(embed.output_name))
        return _Joined(embed, items, join, SQL("{} is null").format(rows))

    def _to_many_spread(self, embed: Embed, reading: Reading, target: Table) -> _Joined:
        alias, names = self._alias(), self._output_names(embed.items, target)
        arrays = [
            SQL("coalesce(json_agg({}), '[]') as {}").format(Identifier(alias, name), Identifier(name))
            for name in names
        ]
        count = Identifier(alias, "pgrst_count")
        join = SQL(" {} join lateral (select {} from ({}) as {}) as {} on {}").format(
            _join_kind(embed),
            joined([SQL("count(*) as pgrst_count"), *arrays]),
            reading.rows,
            Identifier(alias),
            Identifier(alias),
            SQL("{} > 0").format(count) if embed.inner else SQL("true"),
        )
        items = joined(Identifier(alias, name) for name in names) if names else None
        return _Joined(embed, items, join, SQL("{} = 0").format(count))

    def _output_names(self, items: Sequence[SelectItem], table: Table) -> list[str]:
        """What the columns of a select are called, with those that are spread into it."""
        names: list[str] = []
        for item in items:
            if isinstance(item, Star):
                names += table.columns
            elif isinstance(item, Column):
                names.append(item.output_name)
            elif item.spread:
                way = find_relationship(self._catalog, table, item.target, item.hint)
                names += self._output_names(item.items, self._catalog.tables[way.target])
            elif not _is_empty(item):
                names.append(item.output_name)
        return names

    def _scope(self, embed: Embed, path: Path) -> tuple[Path, Scope]:
        """The embed's own part of the query; by its alias, or by the target's name, which still works."""
        for name in (embed.output_name, embed.target):
            own = (*path, name)
            if own not in self._used and any(known[: len(own)] == own for known in self._query.scopes):
                self._used.add(own)
                return own, self._query.scopes.get(own, Scope())
        return (*path, embed.output_name), Scope()

    def _row(self, way: Relationship) -> Row:
        return Row.of(self._catalog, self._catalog.tables[way.target], self._alias())

    def _alias(self) -> str:
        self._count += 1
        return f"pgrst_{self._count}"


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


def _is_empty(embed: Embed) -> bool:
    """Whether nothing is to be shown of it: it is there for its filters."""
    return all(isinstance(item, Embed) and _is_empty(item) for item in embed.items)


def _join_kind(embed: Embed) -> Composable:
    return SQL("inner") if embed.inner else SQL("left")


def _on(way: Relationship, parent: str, other: str) -> list[Composable]:
    return _pairs(way.columns, parent, other)


def _pairs(columns: Sequence[tuple[str, str]], left: str, right: str) -> list[Composable]:
    return [SQL("{} = {}").format(Identifier(left, own), Identifier(right, other)) for own, other in columns]


def _named(items: Sequence[SelectItem], name: str) -> Embed | None:
    embeds = [item for item in items if isinstance(item, Embed) and name in {item.output_name, item.target}]
    return embeds[0] if embeds else None


def _absence(asked: Comparison, embeds: Sequence[_Joined]) -> Composable | None:
    """`embed=is.null` and `embed=not.is.null`, the only filters on an embed as a whole; others are on a column."""
    operation = asked.operation
    if asked.field.path or operation.operator != "is" or operation.value not in {"null", "not_null"}:
        return None
    for joined_embed in embeds:
        if asked.field.name != joined_embed.embed.output_name:
            continue
        wants_absent = (operation.value == "null") != operation.negated
        return joined_embed.is_absent if wants_absent else SQL("not ({})").format(joined_embed.is_absent)
    return None
