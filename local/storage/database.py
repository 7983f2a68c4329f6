"""Transactions over the `storage` schema, in which policies hold for what the caller reads and writes.

Storage itself looks up limits and writes what the policies have allowed; every statement that a policy should decide
on runs as the caller. The role changes inside one transaction, so what was allowed is what is written.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.abc import QueryNoTemplate
from psycopg.rows import DictRow, TupleRow, dict_row
from starlette.requests import Request

from local.services import Pool
from local.storage.callers import STORAGE, Caller
from local.storage.errors import access_denied

STATEMENT_TIMEOUT = "30s"  # Storage's own default

_SETTINGS = """
select set_config('search_path', 'storage, public, extensions', true),
       set_config('statement_timeout', %(statement_timeout)s, true),
       set_config('request.headers', %(headers)s, true),
       set_config('request.method', %(method)s, true),
       set_config('request.path', %(path)s, true),
       set_config('storage.operation', %(operation)s, true),
       set_config('storage.allow_delete_query', 'true', true)
"""
_IDENTITY = """
select set_config('role', %(role)s, true),
       set_config('request.jwt.claims', %(claims)s, true),
       set_config('request.jwt.claim.sub', %(subject)s, true),
       set_config('request.jwt.claim.role', %(role)s, true)
"""


class Session:
    """One transaction. Statements run as the caller, and inside `as_storage` as Storage itself."""

    def __init__(self, connection: AsyncConnection[TupleRow], cursor: AsyncCursor[DictRow], caller: Caller) -> None:
        self._connection = connection
        self._cursor = cursor
        self.caller = caller

    async def rows(self, statement: QueryNoTemplate, values: Mapping[str, Any]) -> list[DictRow]:
        await self._cursor.execute(statement, values)
        return await self._cursor.fetchall()

    async def row(self, statement: QueryNoTemplate, values: Mapping[str, Any]) -> DictRow | None:
        await self._cursor.execute(statement, values)
        return await self._cursor.fetchone()

    async def write(self, statement: QueryNoTemplate, values: Mapping[str, Any]) -> int:
        """Run a statement that returns no rows; how many rows it wrote."""
        await self._cursor.execute(statement, values)
        return self._cursor.rowcount

    async def check(self, statement: QueryNoTemplate, values: Mapping[str, Any]) -> int:
        """Ask the policies for a write: how many rows it would have written. Nothing of it stays.

        Raises:
            psycopg.Error: a policy, a constraint or a trigger refuses it.
        """
        async with self._connection.transaction(force_rollback=True):
            return await self.write(statement, values)

    async def become(self, caller: Caller) -> None:
        identity = {"role": caller.role, "claims": caller.claims, "subject": caller.subject or ""}
        try:
            await self._cursor.execute(_IDENTITY, identity)
        except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege) as exc:
            # A token may name any role, and may take on those that `authenticator` may.
            raise access_denied(exc.diag.message_primary or "The role of the token is not allowed") from exc

    @asynccontextmanager
    async def as_storage(self) -> AsyncGenerator[None]:
        """Step out of the policies. A failure inside ends the transaction, so the role is not taken back on then."""
        await self.become(STORAGE)
        yield
        await self.become(self.caller)


class Database:
    """Opens sessions on the pool of `authenticator`, as the REST server does."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def session(self, request: Request, caller: Caller, operation: str) -> AsyncGenerator[Session]:
        """Hold one transaction as the caller; an exception rolls back. `operation` is one of Storage's own names."""
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(
                _SETTINGS,
                {
                    "statement_timeout": STATEMENT_TIMEOUT,
                    "headers": orjson.dumps({k: v for k, v in request.headers.items() if k != "cookie"}).decode(),
                    "method": request.method,
                    "path": request.url.path.removeprefix("/storage/v1"),
                    "operation": f"storage.{operation}",
                },
            )
            session = Session(connection, cursor, caller)
            await session.become(caller)
            yield session
