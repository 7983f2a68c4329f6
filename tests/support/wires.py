"""Databases that behave badly on purpose, wrapped around a real one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from shared.database import Database
from shared.errors import DatabaseUnavailable
from shared.runs.models import Json


class CountingDatabase:
    """Counts calls by function."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.calls: Counter[str] = Counter()

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls[function] += 1
        return await self._database.call(function, arguments)

    async def close(self) -> None:
        await self._database.close()


class LosingDatabase:
    """Commits, then loses the reply of the given calls: (function, n-th call of it)."""

    def __init__(self, database: Database, *lost: tuple[str, int]) -> None:
        self._database = database
        self._lost = set(lost)
        self._calls: Counter[str] = Counter()

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self._calls[function] += 1
        answer = await self._database.call(function, arguments)
        if (function, self._calls[function]) in self._lost:
            raise DatabaseUnavailable("The reply was lost")
        return answer

    async def close(self) -> None:
        await self._database.close()


class GatedDatabase:
    """Holds calls of one function back until the gate is opened; `entered` tells that one is waiting."""

    def __init__(self, database: Database, function: str) -> None:
        self._database = database
        self._function = function
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        if function == self._function:
            self.entered.set()
            await self.gate.wait()
        return await self._database.call(function, arguments)

    async def close(self) -> None:
        await self._database.close()
