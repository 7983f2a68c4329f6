"""The cache hears of changes as long as it lives, and leaves no connection behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from local.rest.schema_cache import SchemaCache
from tests.support.runs import connect, until

LISTENERS = "from pg_stat_activity where datname = current_database() and query = 'listen pgrst'"


@asynccontextmanager
async def new_cache(url: str) -> AsyncGenerator[SchemaCache]:
    async with AsyncConnectionPool[AsyncConnection[TupleRow]](url, min_size=1, kwargs={"autocommit": True}) as pool:
        yield SchemaCache(pool, url)


async def test_what_changed_while_the_listener_was_lost_is_known_once_it_is_back(database_url: str) -> None:
    async with new_cache(database_url) as cache, connect(database_url) as connection:
        await cache.start()
        await connection.execute(f"select pg_terminate_backend(pid, 5000) {LISTENERS}")
        await connection.execute("create table public.made_meanwhile (id integer)")

        async def is_known() -> bool:
            return ("public", "made_meanwhile") in cache.catalog.tables

        await until(is_known)
        await cache.stop()


async def test_a_cache_that_ends_as_soon_as_it_has_begun_closes_its_connection(database_url: str) -> None:
    async with new_cache(database_url) as cache, connect(database_url) as connection:
        await cache.start()
        await cache.stop()  # what were still open would be reported where it is collected

        async def nobody_listens() -> bool:
            return not await (await connection.execute(f"select 1 {LISTENERS}")).fetchall()

        await until(nobody_listens)
