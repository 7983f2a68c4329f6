"""What befalls the system while it works: workers are killed or frozen, the database server crashes and recovers."""

from __future__ import annotations

import asyncio
import random
import time

import psycopg

from bench.soak.crew import Crew
from local.postgres import PostgresError, PostgresServer

POLL_SECONDS = 0.05
RESTART_TRIES = 3
FROZEN_SECONDS = (2.0, 9.0)  # the workers' leases are 5 s


async def kill_workers(workers: Crew, *, every: float, chance: random.Random) -> None:
    """Kill a random worker about every so many seconds, until cancelled."""
    while True:
        await asyncio.sleep(every * chance.uniform(0.5, 1.5))
        await asyncio.shield(workers.kill_one(chance))


async def freeze_workers(workers: Crew, *, every: float, chance: random.Random) -> None:
    """Freeze a random worker about every so many seconds, mostly beyond its lease, until cancelled."""
    while True:
        await asyncio.sleep(every * chance.uniform(0.5, 1.5))
        await workers.freeze_one(chance, seconds=chance.uniform(*FROZEN_SECONDS))


class Outages:
    """Crashes of the database server, and how long each kept everybody out (seconds)."""

    def __init__(self, server: PostgresServer) -> None:
        self.seconds: list[float] = []
        self._server = server
        self._restarting: asyncio.Task[None] | None = None

    async def make(self, *, every: float, chance: random.Random) -> None:
        """Crash and recover about every so many seconds, until cancelled."""
        while True:
            await asyncio.sleep(every * chance.uniform(0.7, 1.3))
            self._restarting = asyncio.create_task(self._restart())
            await asyncio.shield(self._restarting)

    async def over(self) -> None:
        """Wait for a restart that is going on."""
        if self._restarting is not None:
            await self._restarting

    async def _restart(self) -> None:
        began = time.monotonic()
        for left in reversed(range(RESTART_TRIES)):
            try:
                await asyncio.to_thread(self._server.restart, immediate=True)
                break
            except PostgresError:
                if left == 0:
                    raise
        while not await self._answers():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(POLL_SECONDS)
        self.seconds.append(time.monotonic() - began)

    async def _answers(self) -> bool:
        try:
            async with await psycopg.AsyncConnection.connect(self._server.url, connect_timeout=2) as connection:
                await connection.execute("select 1")
        except psycopg.OperationalError:
            return False
        return True
