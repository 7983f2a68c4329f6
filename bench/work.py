"""The work that every contender does: queued runs of no-op steps, each with a result, a log line and a cost."""

from __future__ import annotations

import json
from uuid import UUID, uuid4

from psycopg import AsyncConnection

STEP_BOUND = 50  # micro-credits reserved
STEP_COST = 10  # micro-credits settled
LEASE_SECONDS = 600.0


async def queue_runs(url: str, count: int) -> list[UUID]:
    """Create and start runs of one new person through the public API."""
    user_id = uuid4()
    async with await AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("insert into auth.users (id, email) values (%s, %s)", [user_id, f"{user_id}@x.test"])
        await connection.execute("select public.grant_credits(%s, 1000000000)", [user_id])
        await connection.execute("select public.set_tier(%s, 'scale')", [user_id])  # limits that are not reached
        claims = json.dumps({"sub": str(user_id), "role": "authenticated"})
        await connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
        request = json.dumps({"engine": "bench", "input": {}, "autostart": True, "max_steps": 10_000})
        ids: list[UUID] = []
        for _ in range(count):
            row = await (await connection.execute("select public.create_run(%s)", [request])).fetchone()
            assert row is not None
            ids.append(UUID(row[0]["run_id"]))
    return ids
