"""What PostgreSQL has written: WAL by pg_walinspect, bytes by table and index, updates by kind."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from psycopg import AsyncConnection

BROADCAST = "realtime.messages"  # with its partitions, which Realtime drops after days

_SIZES = """
    select case when n.nspname = 'realtime' then %(broadcast)s else n.nspname || '.' || c.relname end as name,
      sum(pg_table_size(c.oid))::bigint, sum(pg_indexes_size(c.oid))::bigint
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and n.nspname in ('public', 'private', 'realtime')
    group by 1
"""
_UPDATES = """
    select relname, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables
    where schemaname = 'public' and relname in ('agent_runs', 'agent_steps')
"""


class Size(NamedTuple):
    """Bytes: of the table with what is stored out of line, and of its indexes."""

    table: int
    indexes: int


class Wal(TypedDict):
    """Bytes of records, and of the images of pages that were first changed since a checkpoint."""

    records: float
    page_images: float


async def wal_position(connection: AsyncConnection) -> str:
    """Where the log ends now. What comes is kept until `wal_since`, whatever checkpoints there are meanwhile."""
    await connection.execute("select pg_create_physical_replication_slot(%s, true, true)", [_slot(connection)])
    return await _value(connection, "select pg_current_wal_insert_lsn()::text")


async def wal_since(connection: AsyncConnection, position: str) -> Wal:
    """All that the server has written since; the extension pg_walinspect must be there."""
    await connection.execute("select pg_switch_wal()")  # what is read must have been written out
    cursor = await connection.execute(
        "select sum(record_size)::float8, sum(fpi_size)::float8"
        " from pg_get_wal_stats(%s, pg_current_wal_flush_lsn()) where \"resource_manager/record_type\" <> 'XLOG'",
        [position],
    )
    row = await cursor.fetchone()
    assert row is not None
    await connection.execute("select pg_drop_replication_slot(%s)", [_slot(connection)])
    return {"records": row[0] or 0.0, "page_images": row[1] or 0.0}


def _slot(connection: AsyncConnection) -> str:
    """A temporary one: it goes with the session at the latest."""
    return f"bench_{connection.info.backend_pid}"


async def sizes(connection: AsyncConnection) -> dict[str, Size]:
    """Of every table of ours, by name; what Realtime keeps is one."""
    cursor = await connection.execute(_SIZES, {"broadcast": BROADCAST})
    return {name: Size(table, indexes) for name, table, indexes in await cursor.fetchall()}


async def updates(connection: AsyncConnection) -> dict[str, tuple[int, int]]:
    """Rows updated and those of them that were HOT, as far as sessions have passed them on."""
    await connection.execute("select pg_stat_clear_snapshot()")
    return {name: (rows, hot) for name, rows, hot in await (await connection.execute(_UPDATES)).fetchall()}


async def _value(connection: AsyncConnection, query: str) -> str:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return row[0]
