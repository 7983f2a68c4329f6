"""The exposed part of the database's schema: what a request may name, and how relations hang together.

A catalog is a snapshot and never changes; `schema_cache` replaces it whole. Its SQL fragments (types and
default expressions) are PostgreSQL's own deparsed text and the only SQL that is not composed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import TupleRow

from local.rest.errors import ApiError

QualifiedName = tuple[str, str]
_QUERY = Path(__file__).with_name("catalog.sql").read_bytes()


@dataclass(frozen=True, slots=True)
class TableColumn:
    name: str
    type: str
    default: str | None


@dataclass(frozen=True)
class Table:
    """A table or view. `columns` are in the table's order."""

    schema: str
    name: str
    columns: Mapping[str, TableColumn]
    primary_key: tuple[str, ...]

    @property
    def qualified(self) -> QualifiedName:
        return self.schema, self.name


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`columns` pairs this table's columns with the target's."""

    name: str
    table: QualifiedName
    target: QualifiedName
    columns: tuple[tuple[str, str], ...]
    is_unique: bool
    in_primary_key: bool


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    type: str
    is_optional: bool
    is_variadic: bool


@dataclass(frozen=True, slots=True)
class Function:
    """`returns_rows`: composite or OUT parameters; `relation`: the table whose rows they are, if one's."""

    schema: str
    name: str
    arguments: tuple[Argument, ...]
    returns: str
    returns_set: bool
    returns_rows: bool
    relation: QualifiedName | None
    is_volatile: bool
    settings: Mapping[str, str]

    @property
    def signature(self) -> str:
        arguments = ", ".join(f"{argument.name} => {argument.type}" for argument in self.arguments)
        return f"{self.schema}.{self.name}({arguments})"


@dataclass(frozen=True)
class Catalog:
    """Look-ups over one snapshot."""

    tables: Mapping[QualifiedName, Table]
    foreign_keys: tuple[ForeignKey, ...]
    functions: Mapping[QualifiedName, tuple[Function, ...]]
    role_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])

    @cached_property
    def foreign_keys_by_table(self) -> Mapping[QualifiedName, tuple[ForeignKey, ...]]:
        """The keys that leave or reach a table. One that points at its own table stands there once."""
        found: dict[QualifiedName, list[ForeignKey]] = defaultdict(list)
        for key in self.foreign_keys:
            for table in {key.table, key.target}:
                found[table].append(key)
        return {table: tuple(keys) for table, keys in found.items()}

    def table(self, schema: str, name: str) -> Table:
        """Find a table or view.

        Raises:
            ApiError: PGRST205.
        """
        table = self.tables.get((schema, name))
        if table is None:
            close = self._similar(name, (known for known in self.tables if known[0] == schema))
            raise ApiError(
                404,
                "PGRST205",
                f"Could not find the table '{schema}.{name}' in the schema cache",
                hint=f"Perhaps you meant the table '{schema}.{close}'" if close else None,
            )
        return table

    def similar_function(self, schema: str, name: str) -> str | None:
        return self._similar(name, (known for known in self.functions if known[0] == schema))

    @staticmethod
    def _similar(name: str, known: Iterable[QualifiedName]) -> str | None:
        close = get_close_matches(name, [candidate for _, candidate in known], n=1)
        return close[0] if close else None


EMPTY = Catalog(tables={}, foreign_keys=(), functions={})


async def load_catalog(connection: AsyncConnection[TupleRow], schemas: tuple[str, ...]) -> Catalog:
    """Read the catalog of `schemas` as the role that is connected."""
    async with connection.transaction():
        await connection.execute("set local search_path to ''")
        cursor = AsyncRawCursor(connection)
        await cursor.execute(_QUERY, (list(schemas),))
        row = await cursor.fetchone()
    return _from_document(row[0] if row else {})


def _from_document(document: Mapping[str, Any]) -> Catalog:
    functions: dict[QualifiedName, list[Function]] = defaultdict(list)
    for item in document["functions"]:
        functions[item["schema"], item["name"]].append(_function(item))
    settings: dict[str, dict[str, str]] = defaultdict(dict)
    for item in document["role_settings"]:
        settings[item["role"]][item["name"]] = item["value"]
    return Catalog(
        tables={(item["schema"], item["name"]): _table(item) for item in document["tables"]},
        foreign_keys=tuple(_foreign_key(item) for item in document["foreign_keys"]),
        functions={name: tuple(overloads) for name, overloads in functions.items()},
        role_settings=dict(settings),
    )


def _table(item: Mapping[str, Any]) -> Table:
    columns = {column["name"]: TableColumn(**column) for column in item["columns"]}
    return Table(item["schema"], item["name"], columns, tuple(item["primary_key"]))


def _foreign_key(item: Mapping[str, Any]) -> ForeignKey:
    return ForeignKey(
        name=item["name"],
        table=(item["table"][0], item["table"][1]),
        target=(item["target"][0], item["target"][1]),
        columns=tuple((own, other) for own, other in item["columns"]),
        is_unique=item["is_unique"],
        in_primary_key=item["in_primary_key"],
    )


def _function(item: Mapping[str, Any]) -> Function:
    relation = item["relation"]
    settings: list[str] = item["settings"]
    return Function(
        schema=item["schema"],
        name=item["name"],
        arguments=tuple(Argument(**argument) for argument in item["arguments"]),
        returns=item["returns"],
        returns_set=item["returns_set"],
        returns_rows=item["returns_rows"],
        relation=None if relation is None else (relation[0], relation[1]),
        is_volatile=item["is_volatile"],
        settings=dict(setting.split("=", 1) for setting in settings),
    )
