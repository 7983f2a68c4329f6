"""Databases that behave badly on purpose, wrapped around a real one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sized
from typing import cast

from shared.database import Database
from shared.errors import DatabaseUnavailable
from shared.runs.models import Json, JsonObject


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


class ShownDatabase:
    """Shows its calls of advance_runs: of how many runs each is, in order, and how many there are at once.

    The first `held` of them wait until the gate is opened.
    """

    def __init__(self, database: Database, *, held: int = 0) -> None:
        self._database = database
        self._held = held
        self._now = 0
        self.gate = asyncio.Event()
        self.sizes: list[int] = []
        self.most_at_once = 0

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        if function != "advance_runs":
            return await self._database.call(function, arguments)
        self.sizes.append(len(cast("Sized", cast("JsonObject", arguments["p_batch"])["runs"])))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        if len(self.sizes) <= self._held:
            await self.gate.wait()
        try:
            return await self._database.call(function, arguments)
        finally:
            self._now -= 1

    async def close(self) -> None:
        await self._database.close()
