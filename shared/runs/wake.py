"""How an idle worker learns at once that there is work. A wake carries no data: the worker claims and sees.

LISTEN where there is a direct connection; otherwise the poll alone. Missing a wake costs at most one poll interval.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, Protocol

import psycopg

from shared.logs import logger

log = logger(__name__)

CHANNEL: Final = "runbase_runs"
RECONNECT_SECONDS: Final = 1.0


class Wake(Protocol):
    """Sets `woken` whenever there may be work."""

    async def serve(self, woken: asyncio.Event) -> None:
        """Run until cancelled."""
        ...


class NoWake:
    """The poll alone."""

    async def serve(self, woken: asyncio.Event) -> None:
        del woken
        await asyncio.Event().wait()


class ListenWake:
    """LISTEN on a connection of its own; a session-mode URL, for a transaction-mode pooler drops LISTEN."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def serve(self, woken: asyncio.Event) -> None:
        while True:
            with suppress(psycopg.Error):
                await self._listen(woken)
            log.warning("wake.disconnected")
            woken.set()  # what was missed meanwhile
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self, woken: asyncio.Event) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, application_name="runbase wake", connect_timeout=5
        )
        async with connection:
            await connection.execute(f"listen {CHANNEL}")
            woken.set()
            async for _ in connection.notifies():
                woken.set()
