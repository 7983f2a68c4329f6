"""Transactions over the `auth` schema, as GoTrue's own role.

A project's trigger on auth.users runs with the rights and the search path of whoever writes the row. Taking on
`supabase_auth_admin` here makes a trigger that would fail on hosted Supabase (no grant on its table, a name
without its schema) fail on the developer's machine first.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from local.services import Pool

Cursor = AsyncCursor[DictRow]


@asynccontextmanager
async def transaction(pool: Pool) -> AsyncGenerator[Cursor]:
    """Hold one connection and one transaction; an exception rolls back."""
    async with (
        pool.connection() as connection,
        connection.transaction(),
        connection.cursor(row_factory=dict_row) as cur,
    ):
        await cur.execute(
            "select set_config('role', 'supabase_auth_admin', true), set_config('search_path', 'auth', true)"
        )
        yield cur
