"""Waiting for what another process does."""

from __future__ import annotations

import asyncio

from psycopg import AsyncConnection
from psycopg.abc import Query

POLL_SECONDS = 0.05


async def row_of(
    connection: AsyncConnection, query: Query, *values: object, seconds: float = 60.0
) -> tuple[float, ...]:
    """The query's first row, as soon as there is one.

    Raises:
        TimeoutError: there was none for so many seconds.
    """
    async with asyncio.timeout(seconds):
        while True:
            row = await (await connection.execute(query, values)).fetchone()
            if row is not None:
                return row
            await asyncio.sleep(POLL_SECONDS)
