"""What the fan-out must know of a table beside its rows: primary key, types, whether RLS is on, who may read what.

Read when first needed and kept as long as the `Relation` that it belongs to: the server sends a new one after every
change of the table's catalog entry (alter, grant, enabling RLS).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import LiteralString

from psycopg.rows import dict_row

from local.realtime.pgoutput import Relation
from local.realtime.values import ValueType
from local.services import Pool

# A relation is asked for by oid; one that is gone has no columns.
_COLUMNS: LiteralString = """
select a.attname as name, t.typname as type_name,
       format('%%I.%%I', n.nspname, t.typname) as sql_type,
       base.oid::int8 as base_oid,
       case when base.typcategory = 'A' then pg_basetype(base.typelem)::int8 end as element_oid,
       coalesce(a.attnum = any (i.indkey), false) as is_primary_key,
       c.relrowsecurity as has_rls
from pg_class c
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
join pg_type t on t.oid = a.atttypid
join pg_namespace n on n.oid = t.typnamespace
join pg_type base on base.oid = pg_basetype(a.atttypid)
left join pg_index i on i.indrelid = c.oid and i.indisprimary
where c.oid = %s
order by a.attnum
"""
# A role that a token cannot take on reads nothing.
_READER: LiteralString = """
select r.rolsuper or r.rolbypassrls as bypasses_rls,
       case when has_schema_privilege(r.oid, c.relnamespace, 'usage') then array(
         select a.attname::text from pg_attribute a
         where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
           and has_column_privilege(r.oid, c.oid, a.attnum, 'select')
       ) else '{}' end as columns
from pg_roles r, pg_class c
where r.rolname = %s and c.oid = %s and pg_has_role('authenticator', r.oid, 'member')
"""
_PUBLISHED: LiteralString = """
select c.oid::int8 as oid
from pg_publication_tables p
join pg_namespace n on n.nspname = p.schemaname
join pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
where p.pubname = %s and %s::text in (p.schemaname::text, '*') and %s::text in (p.tablename::text, '*')
"""


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type_name: str
    sql_type: str  # quoted and with its schema
    value_type: ValueType
    is_primary_key: bool


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` is empty if the table is gone."""

    columns: dict[str, Column]
    has_rls: bool

    @property
    def primary_key(self) -> list[Column]:
        return [column for column in self.columns.values() if column.is_primary_key]

    def seen_by(self, reader: Reader) -> Table:
        """The table with the columns that the reader may select."""
        columns = {name: column for name, column in self.columns.items() if name in reader.columns}
        return Table(columns, self.has_rls)


@dataclass(frozen=True, slots=True)
class Reader:
    """What a role may do with a table."""

    columns: frozenset[str]
    bypasses_rls: bool


@dataclass(slots=True)
class _Entry:
    relation: Relation
    table: Table
    readers: dict[str, Reader] = field(default_factory=dict[str, Reader])


class Catalog:
    """Tables and their readers, by relation."""

    def __init__(self, admin_pool: Pool) -> None:
        self._pool = admin_pool
        self._entries: dict[int, _Entry] = {}

    async def table(self, relation: Relation) -> Table:
        return (await self._entry(relation)).table

    async def reader(self, relation: Relation, role: str) -> Reader:
        entry = await self._entry(relation)
        if role not in entry.readers:
            entry.readers[role] = await self.read_reader(relation.oid, role)
        return entry.readers[role]

    async def read_published(self, publication: str, schema: str, table: str) -> list[int]:
        """Oids of the publication's tables that match the names; `*` matches all."""
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_PUBLISHED, [publication, schema, table])
            return [row["oid"] for row in await cursor.fetchall()]

    async def read_table(self, oid: int) -> Table:
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_COLUMNS, [oid])
            rows = await cursor.fetchall()
        columns = [
            Column(
                name=row["name"],
                type_name=row["type_name"],
                sql_type=row["sql_type"],
                value_type=ValueType(row["base_oid"], row["element_oid"]),
                is_primary_key=row["is_primary_key"],
            )
            for row in rows
        ]
        return Table({column.name: column for column in columns}, has_rls=bool(rows) and rows[0]["has_rls"])

    async def read_reader(self, oid: int, role: str) -> Reader:
        async with self._pool.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_READER, [role, oid])
            row = await cursor.fetchone()
        if row is None:
            return Reader(frozenset(), bypasses_rls=False)
        return Reader(frozenset(row["columns"]), row["bypasses_rls"])

    async def _entry(self, relation: Relation) -> _Entry:
        entry = self._entries.get(relation.oid)
        if entry is None or entry.relation is not relation:
            entry = _Entry(relation, await self.read_table(relation.oid))
            self._entries[relation.oid] = entry
        return entry
