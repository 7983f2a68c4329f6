"""Reads a `Catalog` out of the database: one query, and what can only be worked out from its answer.

A foreign key between two tables is also one between the views that show its columns, and a view has the primary
keys of the tables that it shows; so embedding and upserts work through views as they do on tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import TupleRow

from local.rest.catalog import Argument, Catalog, Config, ForeignKey, Function, QualifiedName, Table, TableColumn
from local.rest.view_columns import BaseColumn, Origin, base_columns

_QUERY = Path(__file__).with_name("catalog.sql").read_bytes()
# The bits of pg_relation_is_updatable(): 1 << CmdType.
_UPDATE, _INSERT, _DELETE = 1 << 2, 1 << 3, 1 << 4
_TRUE = frozenset({"true", "on", "yes", "1"})
# The columns of views that show a table's column: view -> base column -> names in the view.
_Shown = Mapping[QualifiedName, Mapping[BaseColumn, Sequence[str]]]


async def load_catalog(connection: AsyncConnection[TupleRow]) -> Catalog:
    """Read the catalog as the role that is connected, whose own settings say which schemas are exposed."""
    async with connection.transaction():
        # A project's function may have left another role on a connection of the pool.
        await connection.execute("select set_config('role', 'none', true), set_config('search_path', '', true)")
        cursor = AsyncRawCursor(connection)
        await cursor.execute(_QUERY, (list(Config().schemas),))
        row = await cursor.fetchone()
    return _from_document(row[0] if row else {})


def _from_document(document: Mapping[str, Any]) -> Catalog:
    origins = {origin.oid: origin for origin in map(_origin, document["origins"])}
    exposed = {_name(item["schema"], item["name"]) for item in document["tables"]}
    shown = _shown({origin.name: base_columns(origins, origin) for origin in origins.values() if origin.rule})
    primary_keys = {origin.name: origin.primary_key for origin in origins.values()}
    keys = [key for item in document["foreign_keys"] for key in _with_views(_foreign_key(item), shown)]
    functions: dict[QualifiedName, list[Function]] = defaultdict(list)
    for item in document["functions"]:
        functions[item["schema"], item["name"]].append(_function(item))
    settings: dict[str, dict[str, str]] = defaultdict(dict)
    for item in document["role_settings"]:
        settings[item["role"]][item["name"]] = item["value"]
    return Catalog(
        tables={(item["schema"], item["name"]): _table(item, primary_keys, shown) for item in document["tables"]},
        foreign_keys=tuple(key for key in keys if key.table in exposed and key.target in exposed),
        functions={name: tuple(overloads) for name, overloads in functions.items()},
        config=_config(document["config"], document["schemas"]),
        representations={
            (item["source"], item["target"]): _name(*item["function"]) for item in document["representations"]
        },
        role_settings=dict(settings),
    )


def _config(given: Mapping[str, str], schemas: Sequence[str]) -> Config:
    """An option that cannot be read is left at its default, as PostgREST leaves it."""
    default = Config()
    max_rows = given.get("pgrst.db_max_rows", "")
    path = given.get("pgrst.db_extra_search_path")
    hook = given.get("pgrst.db_pre_request")
    end = given.get("pgrst.db_tx_end", "")
    return Config(
        schemas=tuple(schemas),
        extra_search_path=default.extra_search_path if path is None else tuple(_listed(path)),
        max_rows=int(max_rows) if max_rows.isdigit() else default.max_rows,
        pre_request=_name(*hook.split(".", 1)) if hook and "." in hook else ("public", hook) if hook else None,
        rolls_back=end in {"rollback", "rollback-allow-override"},
        allows_tx=end.endswith("-allow-override"),
        allows_aggregates=given.get("pgrst.db_aggregates_enabled", "").lower() in _TRUE,
        allows_plans=given.get("pgrst.db_plan_enabled", "").lower() in _TRUE,
        openapi_mode=given.get("pgrst.openapi_mode", default.openapi_mode),
    )


def _listed(text: str) -> Iterator[str]:
    return (part.strip() for part in text.split(",") if part.strip())


def _shown(columns: Mapping[QualifiedName, Mapping[str, BaseColumn]]) -> _Shown:
    shown: dict[QualifiedName, dict[BaseColumn, list[str]]] = {}
    for view, bases in columns.items():
        by_base: dict[BaseColumn, list[str]] = defaultdict(list)
        for name, base in bases.items():
            by_base[base].append(name)
        shown[view] = by_base
    return shown


def _with_views(key: ForeignKey, shown: _Shown) -> Iterator[ForeignKey]:
    """`key`, and the same between every two views, or view and table, that show all of its columns."""
    own, other = tuple(own for own, _ in key.columns), tuple(other for _, other in key.columns)
    sources = [(key.table, own), *_views_of(key.table, own, shown)]
    targets = [(key.target, other), *_views_of(key.target, other, shown)]
    for (source, source_columns), (target, target_columns) in product(sources, targets):
        columns = tuple(zip(source_columns, target_columns, strict=True))
        yield ForeignKey(key.name, source, target, columns, key.is_unique)


def _views_of(
    table: QualifiedName, columns: tuple[str, ...], shown: _Shown
) -> Iterator[tuple[QualifiedName, tuple[str, ...]]]:
    for view, bases in shown.items():
        names = [bases.get((table, column), ()) for column in columns]
        for choice in product(*names):
            yield view, choice


def _primary_key(
    table: QualifiedName, primary_keys: Mapping[QualifiedName, tuple[str, ...]], shown: _Shown
) -> tuple[str, ...]:
    bases = shown.get(table)
    if bases is None:
        return primary_keys[table]
    found: list[str] = []
    for base in dict.fromkeys(name for name, _ in bases):
        names = [bases.get((base, column)) for column in primary_keys[base]]
        if all(names):
            found += [name[0] for name in names if name]
    return tuple(found)


def _name(schema: str, name: str) -> QualifiedName:
    return schema, name


def _origin(item: Mapping[str, Any]) -> Origin:
    columns = {int(number): name for number, name in item["columns"].items()}
    return Origin(item["oid"], _name(*item["name"]), columns, tuple(item["primary_key"]), item["rule"])


def _table(item: Mapping[str, Any], primary_keys: Mapping[QualifiedName, tuple[str, ...]], shown: _Shown) -> Table:
    columns = {column["name"]: TableColumn(**column) for column in item["columns"]}
    writes = item["writes"]
    return Table(
        schema=item["schema"],
        name=item["name"],
        columns=columns,
        primary_key=_primary_key((item["schema"], item["name"]), primary_keys, shown),
        is_view=item["is_view"],
        is_insertable=bool(writes & _INSERT),
        is_updatable=bool(writes & _UPDATE),
        is_deletable=bool(writes & _DELETE),
        description=item["description"],
    )


def _foreign_key(item: Mapping[str, Any]) -> ForeignKey:
    return ForeignKey(
        name=item["name"],
        table=_name(*item["table"]),
        target=_name(*item["target"]),
        columns=tuple((own, other) for own, other in item["columns"]),
        is_unique=item["is_unique"],
    )


def _function(item: Mapping[str, Any]) -> Function:
    relation, of = item["relation"], item["of"]
    settings: list[str] = item["settings"]
    return Function(
        schema=item["schema"],
        name=item["name"],
        arguments=tuple(Argument(**argument) for argument in item["arguments"]),
        returns=item["returns"],
        returns_set=item["returns_set"],
        returns_rows=item["returns_rows"],
        relation=None if relation is None else _name(*relation),
        is_volatile=item["is_volatile"],
        settings=dict(setting.split("=", 1) for setting in settings),
        of=None if of is None else _name(*of),
        is_single=item["is_single"],
        media=item["media"],
        media_is_bytes=item["media_is_bytes"],
    )
