"""Keeps one `Catalog` as fresh as the database.

A connection listens on the channel `pgrst`, on which the platform's event triggers announce every change to the
schema, and people a change of the configuration. Since a notice may still be on its way when the next request comes,
a request that misses something asks for one reload of its own before it is refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from local.rest.catalog import EMPTY, Catalog
from local.rest.catalog_reading import load_catalog
from local.rest.errors import ApiError
from local.services import Pool

_log = logging.getLogger(__name__)
_MISSES = frozenset({"PGRST200", "PGRST202", "PGRST204", "PGRST205"})
_RECONNECT_SECONDS = 0.2
_CANCEL_AGAIN_SECONDS = 0.2
T = TypeVar("T")


class SchemaCache:
    """Reads through `pool`; listens on a connection of its own, by `conninfo`."""

    def __init__(self, pool: Pool, conninfo: str) -> None:
        self._pool = pool
        self._conninfo = conninfo
        self._catalog = EMPTY
        self._loaded_at = float("-inf")
        self._reloading = asyncio.Lock()
        self._listener: asyncio.Task[None] | None = None

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    async def start(self) -> None:
        self._listener = asyncio.create_task(self._listen(await self._listening()), name="rest-schema-cache")
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would leave its connection open

    async def stop(self) -> None:
        while self._listener is not None and not self._listener.done():
            # Said again: `wait_for` loses a cancellation that comes together with what it waits for (Python < 3.12).
            self._listener.cancel()
            await asyncio.wait([self._listener], timeout=_CANCEL_AGAIN_SECONDS)

    async def resolve(self, plan: Callable[[Catalog], T]) -> T:
        """Plan against the catalog; where that misses something, once more against a fresh one."""
        asked_at = time.monotonic()
        try:
            return plan(self._catalog)
        except ApiError as exc:
            if exc.code not in _MISSES:
                raise
        await self.reload(newer_than=asked_at)
        return plan(self._catalog)

    async def reload(self, *, newer_than: float = float("inf")) -> None:
        """Read the catalog again, unless a read that began after `newer_than` has already been done."""
        async with self._reloading:
            if self._loaded_at > newer_than:
                return
            began = time.monotonic()
            async with self._pool.connection() as connection:
                self._catalog = await load_catalog(connection)
            self._loaded_at = began

    async def _listen(self, connection: AsyncConnection[TupleRow]) -> None:
        """Listen for ever; a lost connection is made again."""
        while True:
            try:
                async with connection:
                    while True:
                        async for _ in connection.notifies(stop_after=1):
                            pass  # a migration's many notices arrive together and need one reload
                        await self.reload()
            except psycopg.Error as exc:
                _log.warning("rest.listener_lost error=%s", type(exc).__name__)
            connection = await self._listening_again()

    async def _listening_again(self) -> AsyncConnection[TupleRow]:
        while True:
            await asyncio.sleep(_RECONNECT_SECONDS)
            with suppress(psycopg.Error):
                return await self._listening()

    async def _listening(self) -> AsyncConnection[TupleRow]:
        """A connection that listens. The catalog is read once it does, so that no change is missed."""
        connection = await AsyncConnection.connect(self._conninfo, autocommit=True)
        try:
            await connection.execute("listen pgrst")
            await self.reload()
        except BaseException:
            await connection.close()
            raise
        return connection
