"""Watches the places of runs while the load is on: what must be true of them at every moment, not only at the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import psycopg
from psycopg_pool import AsyncConnectionPool

LOOK_SECONDS: Final = 0.5
PLACES_ARE_RIGHT: Final = (
    "At every look places were counted rightly, none was given twice, and nobody waited beside one"
)

# One statement, so that it sees one moment.
_WRONG: Final = """
  select s.kind || ' slot ' || s.id || ' counts ' || s.taken || ' and has ' || n.runs
  from private.slots s cross join lateral (
    select count(*) as runs from public.agent_runs r
    where r.finished_at is null and r.held_for = 0 and s.id = any (r.slot_ids)) n
  where s.taken <> n.runs
  union all
  select s.kind || ' slot ' || s.id || ' has ' || coalesce(s.places, t.concurrent_runs) || ' places, of which '
    || s.taken || ' are taken'
  from private.slots s join public.accounts a on a.id = s.account_id join private.tiers t on t.name = a.tier
  where s.taken > coalesce(s.places, t.concurrent_runs)
  union all
  select 'run ' || r.id || ' is held beside an empty place of slot ' || r.held_for
  from public.agent_runs r where r.finished_at is null and r.held_for > 0 and not exists (
    select from private.slots s
    where s.id = r.held_for and s.id = any (r.slot_ids) and (s.recheck or not private.has_room(s)))
"""
_STATE: Final = """
  select count(*) filter (where r.held_for > 0 and s.kind = 'account'),
    count(*) filter (where r.held_for > 0 and s.kind = 'key'),
    (select count(*) from private.run_snapshots)
  from public.agent_runs r left join private.slots s on s.id = r.held_for where r.finished_at is null
"""


class Places:
    """What was seen of the places."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self.looks = 0
        self.wrong: list[str] = []
        self._most = [0, 0, 0]
        self._pool = pool

    @property
    def figures(self) -> dict[str, int]:
        names = ("runs held for their account at most", "runs held for their key at most", "snapshots kept at most")
        return dict(zip(names, self._most, strict=True))

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            with suppress(psycopg.OperationalError):  # the database is away; it is looked at again when it is back
                await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        async with self._pool.connection() as connection:
            wrong = await (await connection.execute(_WRONG)).fetchall()
            state = await (await connection.execute(_STATE)).fetchone()
        assert state is not None
        self.looks += 1
        self.wrong += [row[0] for row in wrong]
        self._most = [max(pair) for pair in zip(self._most, state, strict=True)]
