"""The work that every contender does: queued runs of no-op steps, each with a result, a log line and a cost."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from shared.runs.models import JsonObject

STEP_BOUND = 50  # micro-credits reserved
STEP_COST = 10  # micro-credits settled
LEASE_SECONDS = 600.0
MAX_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who calls the public API; the connection carries their claims."""

    id: UUID
    connection: AsyncConnection

    async def create(self, run_input: JsonObject | None = None, *, autostart: bool = False) -> UUID:
        """Create a run, and start it if asked."""
        request = {"engine": "bench", "input": run_input or {}, "autostart": autostart, "max_steps": MAX_STEPS}
        row = await (await self.connection.execute("select public.create_run(%s)", [json.dumps(request)])).fetchone()
        assert row is not None
        return UUID(row[0]["run_id"])

    async def start(self, run_id: UUID) -> None:
        await self.connection.execute("select public.start_run(%s)", [run_id])


@asynccontextmanager
async def new_person(url: str) -> AsyncGenerator[Person]:
    """A new person with credits, and limits that are not reached."""
    user_id = uuid4()
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("insert into auth.users (id, email) values (%s, %s)", [user_id, f"{user_id}@x.test"])
        await favour(connection, user_id)
        claims = json.dumps({"sub": str(user_id), "role": "authenticated"})
        await connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        yield Person(user_id, connection)


async def favour(connection: AsyncConnection, account_id: UUID | str) -> None:
    """Give an account credits for a thousand runs, and the highest limits."""
    await connection.execute("select public.grant_credits(%s, 1000000000)", [account_id])
    await connection.execute("select public.set_tier(%s, 'scale')", [account_id])


async def queue_runs(url: str, count: int, run_input: JsonObject | None = None) -> list[UUID]:
    """Create and start runs of one new person through the public API."""
    async with new_person(url) as person:
        return [await person.create(run_input, autostart=True) for _ in range(count)]
