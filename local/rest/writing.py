"""`insert`, upsert, `update` and `delete`, each returning only the columns that the answer needs.

(A caller may be allowed to write a column that it may not read, so nothing is returned without being asked for.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg.sql import SQL, Composable, Identifier

from local.rest import errors
from local.rest.body import Payload
from local.rest.catalog import Catalog, Table, TableColumn
from local.rest.conditions import Row, condition, no_embeds
from local.rest.query import Aggregate, Column, Query, SelectItem, Star
from local.rest.relationships import find_relationship
from local.rest.sql import NOTHING, Parameters, deparsed, joined, qualified, where

# Counts inserted rows up and updated ones down again, so that an upsert knows whether it created anything.
_COUNT_UP = SQL(
    "set_config('pgrst.inserted',"
    " (coalesce(nullif(current_setting('pgrst.inserted', true), '')::int, 0) + 1)::text, true) <> '0'"
)
_COUNT_DOWN = SQL(
    "set_config('pgrst.inserted', (current_setting('pgrst.inserted', true)::int - 1)::text, true) <> '-1'"
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """What an upsert does about rows that exist. Without columns the primary key decides."""

    resolution: Literal["merge-duplicates", "ignore-duplicates"]
    columns: tuple[str, ...]


class Writer:
    """Composes the writing statement of one request, whose result the reader then selects from."""

    def __init__(
        self, catalog: Catalog, table: Table, query: Query, parameters: Parameters, *, is_returned: bool
    ) -> None:
        self._catalog = catalog
        self._table = table
        self._query = query
        self._parameters = parameters
        self._is_returned = is_returned
        self.row = Row.of(catalog, table, table.name)

    def insert(
        self, payload: Payload, *, missing_default: bool, conflict: Conflict | None, only: Sequence[Composable] = ()
    ) -> Composable:
        """Insert what the body holds. `only` are conditions on the body's rows, under the name `pgrst_body`."""
        columns = self._columns(payload.keys)
        if payload.is_empty:
            return self._no_rows()
        names = SQL(" ({})").format(joined(Identifier(column.name) for column in columns)) if columns else NOTHING
        conditions = list(only)
        if conflict is not None and conflict.resolution == "merge-duplicates":
            conditions.append(_COUNT_UP)
        return SQL("insert into {} as {}{} select {} from {}{}{}{}").format(
            *self._target(),
            names,
            joined(self._given(column) for column in columns),
            self._body(payload, columns, missing_default=missing_default) if columns else self._blank_rows(payload),
            where(conditions),
            NOTHING if conflict is None else self._on_conflict(conflict, columns),
            self._returning(),
        )

    def update(self, payload: Payload, *, missing_default: bool) -> Composable:
        """Set what the body holds; of several rows the first counts."""
        columns = self._columns(payload.keys)
        if payload.is_empty or not columns:
            return self._no_rows()
        assignments = (SQL("{} = {}").format(Identifier(column.name), self._given(column)) for column in columns)
        return SQL("update {} as {} set {} from {}{}{}").format(
            *self._target(),
            joined(assignments),
            self._body(payload, columns, missing_default=missing_default, is_one=True),
            self._filters("UPDATE"),
            self._returning(),
        )

    def delete(self) -> Composable:
        return SQL("delete from {} as {}{}{}").format(*self._target(), self._filters("DELETE"), self._returning())

    def _target(self) -> tuple[Composable, Composable]:
        return qualified(self._table.qualified), Identifier(self.row.alias)

    def _filters(self, verb: str) -> Composable:
        asked = self._query.root.conditions
        if not asked:
            raise errors.unfiltered_write(verb)
        return where([condition(self.row, one, self._parameters, no_embeds) for one in asked])

    def _columns(self, names: Sequence[str]) -> list[TableColumn]:
        for name in names:
            if name not in self._table.columns:
                raise errors.unknown_column(name, self._table.name)
        return [self._table.columns[name] for name in names]

    def _given(self, column: TableColumn) -> Composable:
        """The body's value, read by the column's domain if that has a way to."""
        value, function = (
            Identifier("pgrst_body", column.name),
            self._catalog.representations.get(("json", column.type)),
        )
        return value if function is None else SQL("{}({})").format(qualified(function), value)

    def _type(self, column: TableColumn) -> Composable:
        return SQL("json") if ("json", column.type) in self._catalog.representations else deparsed(column.type)

    def _body(
        self, payload: Payload, columns: Sequence[TableColumn], *, missing_default: bool, is_one: bool = False
    ) -> Composable:
        """The body's rows, or only the first, as a relation `pgrst_body` of the columns' types."""
        if is_one and payload.is_list:
            rows = self._body(payload, columns, missing_default=missing_default)
            return SQL("(select * from {} limit 1) as pgrst_body").format(rows)
        typed = joined(SQL("{} {}").format(Identifier(column.name), self._type(column)) for column in columns)
        document = self._parameters.bind(payload.json)
        if not missing_default:
            record = SQL("json_to_recordset") if payload.is_list else SQL("json_to_record")
            return SQL("{}({}) as pgrst_body({})").format(record, document, typed)
        elements = SQL("jsonb_array_elements({}::jsonb)") if payload.is_list else SQL("(values ({}::jsonb))")
        pairs = joined(
            SQL("{}::text, {}").format(self._parameters.bind(column.name), deparsed(column.default))
            for column in columns
            if column.default is not None
        )
        return SQL(
            "(select given.* from {} as pgrst_element(value),"
            " lateral jsonb_to_record(jsonb_build_object({}) || pgrst_element.value) as given({})) as pgrst_body"
        ).format(elements.format(document), pairs, typed)

    def _blank_rows(self, payload: Payload) -> Composable:
        """As many rows as the body has, none of which says anything."""
        if not payload.is_list:
            return SQL("(values (1)) as pgrst_body")
        return SQL("json_array_elements({}) as pgrst_body").format(self._parameters.bind(payload.json))

    def _on_conflict(self, conflict: Conflict, columns: Sequence[TableColumn]) -> Composable:
        keys = conflict.columns or self._table.primary_key
        target = SQL(" ({})").format(joined(Identifier(key) for key in keys)) if keys else NOTHING
        if conflict.resolution == "ignore-duplicates" or not columns:
            return SQL(" on conflict{} do nothing").format(target)
        assignments = (
            SQL("{} = {}").format(Identifier(column.name), Identifier("excluded", column.name)) for column in columns
        )
        return SQL(" on conflict{} do update set {} where {}").format(target, joined(assignments), _COUNT_DOWN)

    def _returning(self) -> Composable:
        return SQL(" returning {}").format(self._returned())

    def _returned(self) -> Composable:
        if not self._is_returned:
            return SQL("1")
        names: list[str] = []
        for item in self._query.select:
            columns = self._needed(item)
            if columns is None:
                return self._all()
            names += columns
        names += [term.field.name for term in self._query.root.order if term.relation is None]
        return joined(self.row.column(name) for name in dict.fromkeys(names)) if names else SQL("1")

    def _needed(self, item: SelectItem) -> list[str] | None:
        """The columns that the answer's item is made of: of an embed those that it is joined by. None is all."""
        if isinstance(item, Aggregate):
            return [] if item.of is None else [item.of.field.name]
        if isinstance(item, Column):
            return [item.field.name]
        if isinstance(item, Star):
            return None
        way = find_relationship(self._catalog, self._table, item.target, item.hint)
        return None if way.function is not None else [own for own, _ in way.columns]

    def _all(self) -> Composable:
        return SQL("{}.*").format(Identifier(self.row.alias))

    def _no_rows(self) -> Composable:
        if not self._is_returned:
            return SQL("select 1 where false")
        return SQL("select {} from {} as {} where false").format(self._returned(), *self._target())
