"""The queue as tests see it: who stands where, who holds places, and what a worker does with a run it claimed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from shared.runs.engine import HumanRequest
from shared.runs.models import RunId, RunView
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, Advanced, FinishStep, StartStep
from tests.runs.engines import steps
from tests.support.runs import LEASE_SECONDS, Person, claim, connect

# taken is what the rows say, and a held run waits for something: a full slot or a recheck.
BROKEN = """
select 'slot ' || s.id || ' has ' || s.taken || ' taken, not ' || n.runs
  from private.slots s cross join lateral (
    select count(*) as runs from public.agent_runs r where r.held_for = 0 and s.id = any (r.slot_ids)) n
  where s.taken <> n.runs
union all
select 'run ' || r.id || ' names no slot of its own'
  from public.agent_runs r
  where r.held_for is not null and not exists (
    select from private.slots s where s.id = r.slot_ids[1] and s.kind = 'account' and s.account_id = r.account_id)
union all
select 'run ' || r.id || ' waits beside an empty place of slot ' || r.held_for
  from public.agent_runs r
  where r.status = 'queued' and r.held_for > 0 and not exists (
    select from private.slots s
    where s.id = r.held_for and s.id = any (r.slot_ids) and (s.recheck or not private.has_room(s)))
"""
OVER_THE_LIMIT = """
select s.kind, s.taken
  from private.slots s
  where s.taken > coalesce(s.places, (
    select t.concurrent_runs from public.accounts a join private.tiers t on t.name = a.tier where a.id = s.account_id))
"""


async def fetch(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """Rows as the superuser sees them."""
    async with connect(url) as connection:
        return await (await connection.execute(statement, values)).fetchall()


async def run(url: str, statement: str, *values: object) -> None:
    """A statement of an operator's."""
    async with connect(url) as connection:
        await connection.execute(statement, values)


async def assert_places_are_right(url: str) -> None:
    assert await fetch(url, BROKEN) == []


async def over_the_limit(url: str) -> list[tuple[Any, ...]]:
    """Slots of which more is taken than there is; right only after a limit was lowered."""
    return await fetch(url, OVER_THE_LIMIT)


async def tier(url: str, person: Person, *, places: int, share: int = 1) -> None:
    """Give an account a tier of its own, no limit a minute that a test would meet, and credits for a thousand holds."""
    name = f"t{person.id.hex[:20]}"
    await run(url, "insert into private.tiers values (%s, %s, %s, 1000000, 1000000, 1000000)", name, places, share)
    await run(url, "select public.set_tier(%s, %s)", person.id, name)
    await run(url, "select public.grant_credits(%s, 1000000000)", person.id)


async def queue_many(person: Person, count: int, **request: object) -> list[RunId]:
    """Queue runs one after the other, in one transaction."""
    fields = {"engine": "list", "input": {}, "autostart": True, **request}
    rows = await person.query(
        "select public.create_run(%s::text::jsonb) ->> 'run_id' from generate_series(1, %s)", json.dumps(fields), count
    )
    return [RunId(UUID(row[0])) for row in rows]


async def held(url: str, *run_ids: RunId) -> list[bool]:
    """Which of these queued runs are held."""
    rows = dict(await fetch(url, "select id, held_for > 0 from public.agent_runs where id = any (%s)", list(run_ids)))
    return [rows[run_id] for run_id in run_ids]


async def held_for(url: str, run_id: RunId) -> str | None:
    """The kind of slot a run waits for; None when it is not held."""
    rows = await fetch(
        url,
        "select s.kind from public.agent_runs r join private.slots s on s.id = r.held_for where r.id = %s",
        run_id,
    )
    return rows[0][0] if rows else None


async def order(store: RunStore, count: int) -> list[RunId]:
    """Claim one by one: the order in which the queue gives its runs."""
    return [view.run.id for _ in range(count) for view in (await claim(store, limit=1)).views]


@dataclass
class Held:
    """A claimed run in the hands of a worker that does as told."""

    store: RunStore
    run_id: RunId
    lease_id: UUID
    revision: int

    @classmethod
    def of(cls, store: RunStore, view: RunView) -> Held:
        assert view.run.lease_id is not None
        return cls(store, view.run.id, view.run.lease_id, view.run.revision)

    async def advance(self, **what: Any) -> Advanced:
        item = Advance(self.run_id, self.lease_id, self.revision, **what)
        advanced = (await self.store.advance([item], lease_seconds=LEASE_SECONDS))[self.run_id]
        self.revision = advanced.revision
        return advanced

    async def end(self) -> Advanced:
        return await self.advance(status=RunStatus.FAILED)

    async def sleep(self, seconds: float) -> Advanced:
        """Wait for a timer."""
        return await self.advance(status=RunStatus.QUEUED, available_in=seconds)

    async def give_back(self) -> Advanced:
        return await self.advance(status=RunStatus.QUEUED, available_in=0)

    async def ask(self) -> Advanced:
        """Wait for a person."""
        await self.advance(start=(StartStep(1, uuid4(), steps(1)[0]),), status=RunStatus.EXECUTING)
        asks = FinishStep(1, 1, StepStatus.RUNNING, waits_for="human", request=HumanRequest("Which tea?"))
        return await self.advance(finish=(asks,), status=RunStatus.AWAITING_INPUT)


async def take(store: RunStore, limit: int = 10, *, lease_seconds: float = LEASE_SECONDS) -> dict[RunId, Held]:
    """Claim, and hold what came."""
    views = (await claim(store, limit=limit, lease_seconds=lease_seconds)).views
    return {view.run.id: Held.of(store, view) for view in views}
