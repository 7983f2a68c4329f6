"""The direct wire: SQL functions over psycopg 3, for workers that have SUPABASE_DB_URL.

Autocommit, one round trip a call, and no prepared statements, so that it also works behind a transaction-mode pooler.
The session acts as service_role, so the database grants it no more than the service key has over PostgREST.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Self, cast

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb, set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from shared.errors import AppError, DatabaseUnavailable, error_for
from shared.runs.models import Json

CONNECT_SECONDS = 5.0  # how long a call waits for a connection before it says that the database is away
CALL_SECONDS = 30.0  # how long a call may take; a half-open connection would otherwise hang it for hours
# The session's own limits. A call that waits for a lock keeps others' rows locked meanwhile, and their leases (15 s)
# run on; what is cut off here is rolled back, and the worker finds out whose row it was.
STATEMENT_SECONDS = 20.0
LOCK_SECONDS = 2.0


def _dumps(value: Json) -> bytes:
    return orjson.dumps(value)


class DirectDatabase:
    """A pool of connections as service_role. Open it with `async with`, or `open` and `close`."""

    def __init__(self, url: str, *, connections: int = 6) -> None:
        """A worker makes up to five calls at a time; one that hangs must not keep its heartbeat from a connection."""
        self.url = url
        self._statements: dict[tuple[str, tuple[str, ...]], bytes] = {}
        self._pool = AsyncConnectionPool(
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
            async with asyncio.timeout(CALL_SECONDS):
                row = await self._row(statement, values)
        except TimeoutError as error:
            raise DatabaseUnavailable(
                f"{function!r} took longer than {CALL_SECONDS:g} seconds", details="timeout"
            ) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise AppError(f"What was sent to or answered by {function!r} is no JSON") from error
        except psycopg.Error as error:
            raise _translated(error, function) from error
        return None if row is None else cast("Json", row[0])

    async def _row(self, statement: bytes, values: Sequence[object]) -> tuple[object, ...] | None:
        # Not by the pool's context manager, which commits: there is nothing to commit, and a call is a transaction.
        connection = await self._pool.getconn()
        try:
            return await (await connection.execute(statement, values)).fetchone()
        except psycopg.errors.ReadOnlySqlTransaction:
            await connection.close()  # it leads to what is now the standby; a new one asks for the name again
            raise
        finally:
            await self._pool.putconn(connection)

    def _statement(self, function: str, names: tuple[str, ...]) -> bytes:
        known = self._statements.get((function, names))
        if known is None:
            arguments = sql.SQL(", ").join(
                sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder()) for name in names
            )
            known = sql.SQL("select public.{}({})").format(sql.Identifier(function), arguments).as_bytes(None)
            self._statements[function, names] = known
        return known


async def _configure(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    set_json_dumps(_dumps, connection)
    set_json_loads(orjson.loads, connection)
    # A transaction-mode pooler may drop the option, and the worker would have more rights than it should.
    row = await (await connection.execute("select current_user")).fetchone()
    if row != ("service_role",):
        raise psycopg.OperationalError("the connection does not act as service_role: name a direct URL, not a pooler's")


def _adapt(value: Json) -> object:
    if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        return Jsonb(value)
    return value


def _translated(error: psycopg.Error, function: str) -> AppError:
    if isinstance(error, PoolTimeout):
        return DatabaseUnavailable("The database does not answer", details="no connection")
    diagnostics = error.diag
    if error.sqlstate is None:
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            return DatabaseUnavailable(f"The connection was lost while calling {function!r}", details="lost")
        return AppError(f"An argument of {function!r} cannot be sent")
    return error_for(
        error.sqlstate,
        diagnostics.message_primary or "The database refused the call",
        details=diagnostics.message_detail,
        hint=diagnostics.message_hint,
    )
