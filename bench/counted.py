"""A database that counts calls, and the bytes of what one of them answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import orjson

from shared.database import Database
from shared.runs.models import Json


class CountedDatabase:
    """Hands calls on. `calls` counts them by function; `bytes` are of the answers of functions in `weighed`."""

    def __init__(self, database: Database, *, weighed: tuple[str, ...] = ()) -> None:
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self._database = database
        self._weighed = weighed

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        self.calls[function] += 1
        answer = await self._database.call(function, arguments)
        if function in self._weighed:
            self.bytes[function] += len(orjson.dumps(answer))
        return answer

    async def close(self) -> None:
        await self._database.close()
