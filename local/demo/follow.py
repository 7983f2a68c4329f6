"""A run's log, live: broadcasts on the private topic `run:<run_id>`, heard by supabase-py's own realtime client.

Every line comes out once and in order. Where a broadcast was lost, the next one (or, at the end, the run's own count)
shows the gap, and the missing lines are read from agent-logs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from realtime.types import BroadcastPayload, RealtimeSubscribeStates

from local.demo.errors import DemoError
from local.demo.person import Json, Person

ENDS = frozenset({"completed", "failed", "cancelled", "timeout"})
SILENCE_SECONDS = 5.0  # after which the run is asked whether something was lost


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a run's log."""

    seq: int
    log_type: str
    message: str
    metadata: dict[str, Any]
    created_at: str

    @classmethod
    def from_json(cls, line: Json) -> Line:
        return cls(line["seq"], line["log_type"], line["message"], line["metadata"], line["created_at"])


@dataclass(frozen=True, slots=True)
class Update:
    """The run's status, and the lines since the last update."""

    status: str
    lines: tuple[Line, ...]


@dataclass(slots=True)
class LiveLog:
    """The log of one run from its first line."""

    person: Person
    run_id: str
    last_seq: int = 0
    lost: int = 0  # lines that no broadcast brought
    texts: list[str] = field(default_factory=list[str])
    """What the run's steps wrote while one could watch, in pieces."""
    _arrived: asyncio.Queue[Json] = field(default_factory=asyncio.Queue[Json])

    def hear(self, message: BroadcastPayload) -> None:
        self._arrived.put_nowait(message["payload"])

    def hear_text(self, message: BroadcastPayload) -> None:
        self.texts.append(str(message["payload"]["text"]))

    async def updates(self) -> AsyncGenerator[Update]:
        """What happens, as it happens, until the run has ended."""
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    heard = await self._arrived.get()
            except TimeoutError:
                yield await self._asked()
                continue
            yield Update(
                heard["status"], tuple(await self._in_order([Line.from_json(line) for line in heard["lines"]]))
            )

    async def _in_order(self, lines: list[Line]) -> list[Line]:
        new = [line for line in lines if line.seq > self.last_seq]
        if new and new[0].seq > self.last_seq + 1:
            new = await self._missing(before=new[0].seq) + new
        if new:
            self.last_seq = new[-1].seq
        return new

    async def _asked(self) -> Update:
        run = (await self.person.status(self.run_id))["run"]
        missing = await self._missing(before=run["log_seq"] + 1) if run["log_seq"] > self.last_seq else []
        self.last_seq = run["log_seq"]
        return Update(run["status"], tuple(missing))

    async def _missing(self, *, before: int) -> list[Line]:
        found = [Line.from_json(line) for line in await self.person.logs_after(self.run_id, self.last_seq)]
        missing = [line for line in found if line.seq < before]
        self.lost += len(missing)
        return missing


@asynccontextmanager
async def live_log(person: Person, run_id: str) -> AsyncGenerator[LiveLog]:
    """Subscribe to a run before it starts, so that not even its first line is missed.

    Raises:
        DemoError: Realtime refused the subscription.
    """
    log = LiveLog(person, run_id)
    channel = person.client.channel(
        f"run:{run_id}",
        {
            "config": {
                "private": True,
                "broadcast": {"ack": False, "self": False},
                "presence": {"key": "", "enabled": False},
            }
        },
    )
    states: list[tuple[RealtimeSubscribeStates, Exception | None]] = []
    channel.on_broadcast("log", log.hear)
    channel.on_broadcast("delta", log.hear_text)
    await channel.subscribe(lambda state, error: states.append((state, error)))
    if not states or states[-1][0] is not RealtimeSubscribeStates.SUBSCRIBED:
        raise DemoError(f"Realtime refused the subscription: {states[-1][1] if states else 'no answer'}")
    try:
        yield log
    finally:
        await channel.unsubscribe()
