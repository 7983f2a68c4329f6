"""The direct wire: SQL functions over psycopg 3, for workers that have SUPABASE_DB_URL.

Autocommit, one round trip a call, and no prepared statements, so that it also works behind a transaction-mode pooler.
The session acts as service_role, so the database grants it no more than the service key has over PostgREST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb, set_json_dumps
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from shared.direct_connection import Connection, DirectConnection, Refused
from shared.errors import AppError, DatabaseUnavailable, error_for
from shared.runs.models import Json

CONNECT_SECONDS = 5.0  # how long a call waits for a connection before it says that the database is away
CALL_SECONDS = 30.0  # how long a call may take; a half-open connection would otherwise hang it for hours
# The session's own limits. A call that waits for a lock keeps others' rows locked meanwhile, and their leases (15 s)
# run on; what is cut off here is rolled back, and the worker finds out whose row it was.
STATEMENT_SECONDS = 20.0
LOCK_SECONDS = 2.0
KEPT_SECONDS = 3600.0  # a connection; behind an old one stands an old process of PostgreSQL, which only ever grows
IDLE_SECONDS = 60.0  # after which one that nobody needed goes back to the pool, which closes it some day
CANCEL_SECONDS = 2.0  # for a server to hear that nobody waits for its answer any more
READ_ONLY = "25006"  # what was the primary is now a standby


def _dumps(value: Json) -> bytes:
    return orjson.dumps(value)


class DirectDatabase:
    """A pool of connections as service_role. Open it with `async with`, or `open` and `close`."""

    def __init__(self, url: str, *, connections: int = 6) -> None:
        """A worker makes up to five calls at a time; one that hangs must not keep its heartbeat from a connection."""
        self.url = url
        self._statements: dict[tuple[str, tuple[str, ...]], bytes] = {}
        self._free: list[DirectConnection] = []  # the last used is the next: its plans are made, its caches warm
        self._waiting = 0
        self._closed = False
        self._ending: set[asyncio.Task[None]] = set()
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=connections,
            open=False,
            timeout=CONNECT_SECONDS,
            reconnect_timeout=0,  # the next call tries again; the pool never gives up for good
            configure=_configure,
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
                "application_name": "runbase",
                "connect_timeout": 5,
                "keepalives_idle": 10,
                "tcp_user_timeout": 20_000,  # milliseconds
                # Whoever logs in lays down his own rights.
                "options": f"-c role=service_role -c statement_timeout={STATEMENT_SECONDS:g}s"
                f" -c lock_timeout={LOCK_SECONDS:g}s",
            },
        )

    async def open(self) -> None:
        """Connect in the background; the first call waits for it."""
        await self._pool.open()

    async def close(self) -> None:
        self._closed = True
        while self._free:
            await self._give_back(self._free.pop())
        if self._ending:
            await asyncio.wait(self._ending)
        await self._pool.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """Call `public.<function>`; see `shared.database.Database`."""
        statement = self._statement(function, tuple(arguments))
        values = [_adapt(value) for value in arguments.values()]
        try:
            connection = await self._taken()
            try:
                return await connection.call(statement, values)
            except Refused as refused:
                if refused.sqlstate == READ_ONLY:
                    await connection.release().close()  # a new one asks for the name again
                raise
            finally:
                await self._let_go(connection)
        except Refused as refused:
            raise _refusal(refused, function) from refused
        except TimeoutError as error:
            raise DatabaseUnavailable(
                f"{function!r} took longer than {CALL_SECONDS:g} seconds", details="timeout"
            ) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise AppError(f"What was sent to or answered by {function!r} is no JSON") from error
        except psycopg.Error as error:
            raise _translated(error, function) from error

    async def _taken(self) -> DirectConnection:
        while self._free:
            connection = self._free.pop()
            if connection.usable:
                return connection
            await self._give_back(connection)
        self._waiting += 1
        try:
            while True:
                given = await self._pool.getconn()
                try:
                    connection = DirectConnection(given, call_seconds=CALL_SECONDS).looked_at()
                except psycopg.Error:  # it is closed
                    await self._pool.putconn(given)
                    continue
                if connection.usable:
                    return connection
                await self._give_back(connection)
        finally:
            self._waiting -= 1

    async def _let_go(self, connection: DirectConnection) -> None:
        """Keep it for the next call, or let those have it who wait for one."""
        now = asyncio.get_running_loop().time()
        if now - connection.since > KEPT_SECONDS:
            await connection.release().close()
        if connection.is_calling:
            # Not awaited: whoever gave up the call is in a hurry.
            ending = asyncio.create_task(self._end_call(connection))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        elif connection.usable and not (self._waiting or self._closed):
            self._free.append(connection)
        else:
            await self._give_back(connection)
        if len(self._free) > 1 and now - self._free[0].used_at > IDLE_SECONDS:
            await self._give_back(self._free.pop(0))

    async def _end_call(self, connection: DirectConnection) -> None:
        """Tell the server to stop, so that it holds neither locks nor a process for nobody."""
        given = connection.release()
        with suppress(psycopg.Error):  # then its own limit ends it
            await given.cancel_safe(timeout=CANCEL_SECONDS)
        await given.close()
        await self._pool.putconn(given)

    async def _give_back(self, connection: DirectConnection) -> None:
        usable = connection.usable
        given = connection.release()
        if not usable:
            await given.close()
        await self._pool.putconn(given)

    def _statement(self, function: str, names: tuple[str, ...]) -> bytes:
        known = self._statements.get((function, names))
        if known is None:
            given = [f"{sql.Identifier(name).as_string()} => ${number}" for number, name in enumerate(names, 1)]
            known = f"select public.{sql.Identifier(function).as_string()}({', '.join(given)})".encode()
            self._statements[function, names] = known
        return known


async def _configure(connection: Connection) -> None:
    set_json_dumps(_dumps, connection)
    # A transaction-mode pooler may drop the option, and the worker would have more rights than it should.
    row = await (await connection.execute("select current_user")).fetchone()
    if row != ("service_role",):
        raise psycopg.OperationalError("the connection does not act as service_role: name a direct URL, not a pooler's")


def _adapt(value: Json) -> object:
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        return Jsonb(value)
    return value


def _refusal(refused: Refused, function: str) -> AppError:
    if refused.sqlstate is None:
        return _lost(function)
    message = refused.message or "The database refused the call"
    return error_for(refused.sqlstate, message, details=refused.details, hint=refused.hint)


def _translated(error: psycopg.Error, function: str) -> AppError:
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("The database does not answer", details="no connection")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return _lost(function)
    return AppError(f"An argument of {function!r} cannot be sent")


def _lost(function: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"The connection was lost while calling {function!r}", details="lost")
