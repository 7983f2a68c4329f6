"""A settable clock for the SQL side: time in a test database is shifted, never slept.

The migrations define `private.clock()`, which returns `clock_timestamp()`. Only the template of the test
databases replaces it; production has no way to be told the time.
"""

from __future__ import annotations

from psycopg import AsyncConnection, sql

_SHIFTABLE = sql.SQL("""
create table private.clock_shift (shift interval not null);
insert into private.clock_shift values ('0');
create or replace function private.clock() returns timestamptz
  language sql {volatility} security definer set search_path = ''
  as $$ select pg_catalog.clock_timestamp() + shift from private.clock_shift $$;
""")
_VOLATILITY = "select provolatile from pg_catalog.pg_proc where oid = to_regprocedure('private.clock()')"


async def install_clock(dsn: str) -> None:
    """Make the database's clock settable. Does nothing where there is no `private.clock()` to replace."""
    async with await AsyncConnection.connect(dsn) as connection:
        found = await (await connection.execute(_VOLATILITY)).fetchone()
        if found is None:
            return
        # As the original has it, for the planner treats it otherwise.
        volatility = sql.SQL("stable" if found[0] in {"s", b"s"} else "volatile")
        await connection.execute(_SHIFTABLE.format(volatility=volatility))


async def shift_clock(connection: AsyncConnection, *, seconds: float) -> None:
    """Move the database's clock on by `seconds` (back if negative), for everybody connected to it."""
    await connection.execute("update private.clock_shift set shift = shift + make_interval(secs => %s)", [seconds])
