"""The cost of each hot statement stays the same however many runs are queued, whatever the statistics say.

Not by time: by the tables that were read as a whole (none) and by the pages that were touched.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from psycopg import AsyncConnection

from shared.direct_database import DirectDatabase
from shared.run_views import LogLine, Step
from shared.runs.batch import to_batch
from shared.runs.models import NewLog, RunId
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, Delta, FinishStep, StartStep
from tests.runs.crowd import EXPIRED, crowd, history
from tests.runs.engines import steps
from tests.runs.queueing import Held, queue_many, run, take
from tests.support.runs import Person, new_person

FEW, MANY = 1_000, 20_000
SMALL_TABLES = {"tiers", "settings", "run_transitions", "step_transitions", "clock_shift", "housekeeping"}
# Look-ups of a run: a page of the history finds each of its fifty runs, and then reads it.
PAGE = {"read the history": 100, "read the history behind a run": 100, "find a text": 50}
INDEX_LEVELS = 3
LIST = "select public.list_runs(%s{})"
LINES = f"select {LogLine.COLUMNS} from public.agent_task_logs where run_id = %s and seq > 9 order by seq limit 51"
_SCANS = """
select relname, seq_scan from pg_stat_xact_user_tables where schemaname in ('public', 'private') and seq_scan > 0
"""


@dataclass(frozen=True)
class Cost:
    """What a statement read: tables from one end to the other, and pages in all."""

    scanned: frozenset[str]
    pages: int


@dataclass
class Meter:
    """A session that runs statements and takes them back."""

    connection: AsyncConnection[Any]
    person: Person

    async def measure(self, statement: str, *values: object, role: str = "service_role") -> Cost:
        async with self.connection.transaction(force_rollback=True):
            claims = json.dumps({"sub": str(self.person.id), "role": role})
            await self.connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            before = dict(await (await self.connection.execute(_SCANS)).fetchall())
            await self.connection.execute(f"set local role {role}")
            explain = f"explain (analyze, buffers, costs off, timing off, format json) {statement}"
            row = await (await self.connection.execute(explain, values)).fetchone()
            assert row is not None
            await self.connection.execute("reset role")
            after = dict(await (await self.connection.execute(_SCANS)).fetchall())
        plan = row[0][0]["Plan"]
        scanned = {name for name in after if after[name] > before.get(name, 0)} - SMALL_TABLES
        return Cost(frozenset(scanned), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@dataclass
class Scene:
    """What the statements are about: a run that a worker holds, and some that wait."""

    working: Held
    ready: RunId
    held: RunId

    @classmethod
    async def set(cls, url: str, person: Person) -> Scene:
        async with DirectDatabase(url) as database:
            store = RunStore(database)
            (run_id,) = await queue_many(person, 1)
            working = (await take(store))[run_id]
            await working.advance(start=(StartStep(1, uuid4(), steps(1)[0]),), status=RunStatus.EXECUTING)
            await store.publish([Delta(run_id, working.lease_id, 1, 1, 0, "Hello")])
            await run(url, "update public.agent_runs set lease_expires_at = 'infinity' where id = %s", run_id)
        queued = await queue_many(person, 25)
        return cls(working, queued[0], queued[-1])

    def statements(self) -> dict[str, tuple[Any, ...]]:
        run_id, working = self.working.run_id, self.working
        claim = "select public.claim_runs('w', %s, 15, %s)"
        advance = "select public.advance_runs(%s)"

        def batch(**what: Any) -> str:
            return json.dumps(to_batch([Advance(run_id, working.lease_id, working.revision, **what)], lease_seconds=15))

        done = FinishStep(1, 1, StepStatus.COMPLETED, output={})
        step = batch(finish=(done,), start=(StartStep(2, uuid4(), steps(2)[1]),), logs=(NewLog("info", "Hello"),))
        lease = json.dumps([{"run_id": str(run_id), "lease_id": str(working.lease_id)}])
        delta = {"run_id": str(run_id), "lease_id": str(working.lease_id), "step_no": 1, "attempt": 1}
        person = {"role": "authenticated"}
        new_run = json.dumps({"engine": "list", "input": {}, "autostart": True})
        return {
            "claim the head": (claim, EXPIRED + 10, ["list"]),
            "claim for several engines": (claim, EXPIRED + 10, ["agent", "list", "workflow"]),
            "claim nothing": (claim, 10, ["prompt"]),
            "advance a step": (advance, step),
            "end and hand on": (advance, batch(status=RunStatus.FAILED)),
            "sleep": (advance, batch(status=RunStatus.QUEUED, available_in=60)),
            "give back": (advance, batch(status=RunStatus.QUEUED, available_in=0)),
            "lose a race": (advance, json.dumps(to_batch([Advance(run_id, uuid4(), 1)], lease_seconds=15))),
            "heartbeat": ("select public.heartbeat_runs(%s, 15)", lease),
            "flush": ("select public.flush_logs(%s)", [run_id]),
            "write": ("select public.publish_deltas(%s)", json.dumps([delta | {"offset": 5, "text": "!"}])),
            "purge": ("select private.purge_old(private.clock() + interval '8 days', 10)", {"role": "postgres"}),
            "load": ("select public.load_run(%s)", run_id),
            "create and start": ("select public.create_run(%s, 'key')", new_run, person),
            "stop a run that is ready": ("select public.control_run(%s, 'stop')", self.ready, person),
            "stop a run that is held": ("select public.control_run(%s, 'stop')", self.held, person),
            "pause a run that is ready": ("select public.control_run(%s, 'pause')", self.ready, person),
            "follow": ("select public.follow_run(%s, 0, 100, null, '[]', true)", run_id, person),
            "read the run": ("select public.show_runs(array[%s::uuid])", run_id, person),
            "read the history": (LIST.format(""), "person", person),
            "read the history behind a run": (
                LIST.format(", p_behind_at => now() - interval '200 ms', p_behind_id => gen_random_uuid()"),
                "person",
                person,
            ),
            "find runs of an agent": (LIST.format(", p_agent_id => gen_random_uuid()"), "person", person),
            "find a text": (LIST.format(", p_text => 'nowhere', p_statuses => '{completed}'"), "person", person),
            "find failed runs": (LIST.format(", p_statuses => '{failed}'"), "person", person),
            "read the execution log": (
                "select * from public.execution_logs where id = %s order by created_at desc limit 50",
                run_id,
                person,
            ),
            "read the steps": (
                f"select {Step.COLUMNS} from public.agent_steps where run_id = %s order by step_no limit 51",
                run_id,
                person,
            ),
            "read the log": (
                LINES,
                run_id,
                person,
            ),
        }

    async def measure(self, meter: Meter) -> dict[str, Cost]:
        costs = {}
        for name, (statement, *values) in self.statements().items():
            options = values.pop() if isinstance(values[-1], dict) else {}
            arguments = [meter.person.id if value == "person" else value for value in values]
            costs[name] = await meter.measure(statement, *arguments, **options)
        return costs


@asynccontextmanager
async def meter_of(url: str, person: Person) -> AsyncGenerator[Meter]:
    connection = await AsyncConnection.connect(url, autocommit=True, prepare_threshold=None)
    async with connection:
        yield Meter(connection, person)


@pytest.mark.parametrize("statistics", ["fresh", "none", "of an empty database"])
async def test_no_statement_costs_more_with_more_runs_in_the_queue(clone_database: Any, statistics: str) -> None:
    """Also in a session that has planned everything while the tables were empty, and keeps its plans."""
    costs: dict[int, dict[str, Cost]] = {}
    async with AsyncExitStack() as sessions:
        for size in (FEW, MANY):
            url = clone_database()
            person = await new_person(url)
            scene = await Scene.set(url, person)
            meter = await sessions.enter_async_context(meter_of(url, person))
            if statistics == "of an empty database":
                await run(url, "analyze")
                for _ in range(7):  # after the fifth time plpgsql may keep a plan for any values
                    await scene.measure(meter)
            await crowd(url, person, size)
            if statistics == "fresh":
                await run(url, "analyze")
            await scene.measure(meter)  # the catalogue is read once a session
            costs[size] = await scene.measure(meter)

    scanned = {name: set(cost.scanned) for name, cost in costs[MANY].items() if cost.scanned}
    dearer = {
        name: (costs[FEW][name].pages, cost.pages)
        for name, cost in costs[MANY].items()
        # An index on twenty times as many rows is one level higher; a page of the history looks up each of its runs.
        if cost.pages > max(1.5 * costs[FEW][name].pages + 20, 20 + PAGE.get(name, 0) * (INDEX_LEVELS + 1))
    }
    assert (scanned, dearer) == ({}, {})


@pytest.mark.older_postgres
@pytest.mark.parametrize("statistics", ["none", "of few rows"])
async def test_no_plan_that_was_made_for_few_rows_reads_all_when_there_are_many(
    database_url: str, person: Person, statistics: str
) -> None:
    """A worker keeps its connection, and with it its plans until the tables are analyzed: in a burst, too late."""
    scene = await Scene.set(database_url, person)
    if statistics == "of few rows":
        await run(database_url, "analyze")
    async with meter_of(database_url, person) as meter:
        for _ in range(7):
            few = await scene.measure(meter)
        await history(database_url, MANY)
        many = await scene.measure(meter)

    # Indexes are up to two levels higher, and a claim reads and writes many rows of them.
    dearer = {name: (few[name].pages, many[name].pages) for name in many if many[name].pages > 2 * few[name].pages + 20}
    # Of members there are few.
    scanned = {name: cost.scanned for name, cost in many.items() if cost.scanned - {"account_members"}}
    assert (scanned, dearer) == ({}, {})


async def test_what_may_not_read_a_whole_table_is_never_compiled(database_url: str) -> None:
    """Before PostgreSQL 18 a way that is not allowed costs ten billion, and a statement that has no other was compiled
    at each call, for a tenth of a second.
    """
    compiled = """
        select p.oid::regprocedure::text from pg_proc p
        where 'enable_seqscan=off' = any (p.proconfig) and not 'jit=off' = any (p.proconfig)
    """
    forbidden = "select count(*) from pg_proc p where 'enable_seqscan=off' = any (p.proconfig)"

    async with await AsyncConnection.connect(database_url) as connection:
        found = await (await connection.execute(compiled)).fetchall()
        (count,) = (await (await connection.execute(forbidden)).fetchone()) or (0,)

    assert found == []
    assert count > 10
