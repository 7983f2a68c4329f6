"""What the parts of the gateway share, and what a part is.

A part (`local.rest`, `local.auth`, `local.realtime`, `local.storage`, `local.functions`) exposes
`build(services) -> Part`.
It opens nothing when built; `start` and `stop` run inside the gateway's lifespan, while the pools are open.
"""

from __future__ import annotations

import select
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool
from starlette.routing import BaseRoute

from local.config import StackConfig
from local.keys import Keys

PLATFORM_PASSWORD = "postgres"  # of every role that may log in; local/platform sets it
Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]


async def _nothing() -> None:
    """Stands for what a part has no need of."""


def _no_trouble() -> str | None:
    return None


def _no_members() -> Mapping[str, str | None]:
    return {}


@dataclass(frozen=True, slots=True)
class Part:
    """One service behind the gateway. Its routes carry their full path (`/rest/v1/...`).

    What is wrong is one sentence for the person at the terminal, or None: `trouble` tells it of the part, beyond a
    database that is away; `members` of each thing that it serves under a name of its own. `settled` waits for what
    `start` left to go on while the part already answers.
    """

    routes: list[BaseRoute]
    start: Callable[[], Awaitable[None]] = _nothing
    stop: Callable[[], Awaitable[None]] = _nothing
    needs_database: bool = True
    trouble: Callable[[], str | None] = _no_trouble
    members: Callable[[], Mapping[str, str | None]] = _no_members
    settled: Callable[[], Awaitable[None]] = _nothing


@dataclass(frozen=True, slots=True)
class Services:
    """Handed to every part.

    `pool` logs in as `authenticator`, which may do nothing until it takes a caller's role; `admin_pool` is
    the superuser. Both are autocommit: a transaction is `async with connection.transaction()`.
    """

    config: StackConfig
    database_url: str
    pool: Pool
    admin_pool: Pool
    keys: Keys

    @classmethod
    def of(cls, config: StackConfig, database_url: str, *, keys: Keys | None = None) -> Services:
        """Services over one database. Nothing is connected before `lifespan`."""
        authenticator = make_conninfo(database_url, user="authenticator", password=PLATFORM_PASSWORD)
        return cls(
            config=config,
            database_url=database_url,
            pool=_pool(authenticator, min_size=2, max_size=20),
            admin_pool=_pool(database_url, min_size=1, max_size=8),
            keys=keys or Keys(),
        )

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Hold the pools open."""
        async with self.pool, self.admin_pool:
            yield


def _pool(conninfo: str, *, min_size: int, max_size: int) -> Pool:
    return AsyncConnectionPool(
        conninfo,
        min_size=min_size,
        max_size=max_size,
        timeout=10,  # seconds a request waits for a connection before it is told so (PostgREST's pool timeout)
        check=_check,
        open=False,
        kwargs={"autocommit": True},
    )


async def _check(connection: AsyncConnection[TupleRow]) -> None:
    """Ask the server only if it has said something since: a goodbye, usually. A roundtrip a request is saved so."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if waiting.poll(0):
        await AsyncConnectionPool.check_connection(connection)
